// From a collective's work to a launch: which kernel, how many blocks, which arguments. It calls no driver and touches
// no memory of a GPU, so everything about a launch is decided and tested on the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include <muster/result.hpp>
#include <muster/types.hpp>

#include "daemon/gpu/kernels/arguments.hpp"

namespace musterd::gpu::kernels {

/// What a launch depends on besides its work.
struct Gpu {
  std::uint32_t multiprocessors = 1;
};

/// A left fold in rank order, as daemon/collective/kernels defines it. Any alignment will do; 16 bytes are fast. An
/// output may be an input of the same size of element; else nothing may overlap. A scan's output may be the input of
/// the rank whose prefix it is, or of a lower rank.
struct FoldCall {
  muster::DType dtype;
  muster::ReduceOp op;
  std::uint64_t count;               ///< elements of each input and output
  std::span<const Address> inputs;   ///< in rank order
  std::span<const Address> outputs;  ///< one; or, for a scan, the last so many prefixes of the fold
  /// What a mean divides by; 0: the number of inputs. With 1 the part of a mean that one GPU has is a plain sum, in the
  /// result's dtype, and a mean of that one sum then divides by the number of all ranks. Not for scans.
  std::uint32_t divisor = 0;
};

/// Each element times a factor, rounded once, for groups that sum what each GPU has multiplied. Integers wrap around.
struct PremultiplyCall {
  muster::DType dtype;                        ///< not bool
  std::variant<double, std::int64_t> factor;  ///< a double for floating-point and complex dtypes, else an integer
  std::uint64_t count;
  Address input;
  Address output;  ///< may be the input
};

/// The most inputs of a fold, the same as the most contributions to an op.
inline constexpr std::size_t inputs_max = 1024;

struct Launch {
  const char* kernel = nullptr;  ///< its name in the image; null if there is nothing to do
  std::uint32_t blocks = 0;      ///< in x, each of block_threads threads
  std::uint32_t rows = 1;        ///< blocks in y
  /// The only parameter of the kernel.
  std::variant<FewArguments, ManyArguments, PremultiplyArguments, CopyArguments> arguments;
  /// Not empty if addresses did not fit into the arguments: the caller copies them to where the GPU can read them, at a
  /// multiple of 8, and tells set_table() where.
  std::vector<std::uint64_t> table;

  [[nodiscard]] bool is_empty() const { return kernel == nullptr; }
  void set_table(Address address);
  /// What cuLaunchKernel takes a pointer to.
  [[nodiscard]] void* parameter();
  [[nodiscard]] std::size_t parameter_bytes() const;
};

/// Invalid if the dtype has no such op, or a number is out of bounds.
[[nodiscard]] muster::Result<Launch> launch_fold(const FoldCall& call, Gpu gpu);
[[nodiscard]] muster::Result<Launch> launch_premultiply(const PremultiplyCall& call, Gpu gpu);
/// Copies many pieces at once, or one. No piece may overlap what another one writes. Invalid if a size is out of
/// bounds.
[[nodiscard]] muster::Result<Launch> launch_copy(std::span<const Piece> pieces, Gpu gpu);

}  // namespace musterd::gpu::kernels
