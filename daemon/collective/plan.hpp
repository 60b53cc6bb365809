// What a complete muster amounts to on one node: which results to make, by which folds and copies, and who gets
// which objects. Pure; addresses of inputs pass through untouched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <muster/ipc/manifest.hpp>
#include <muster/ipc/records.hpp>
#include <muster/result.hpp>

#include "collective/contribution.hpp"

namespace musterd {

/// A result to be made: one region of `bytes`; its leaves' offsets are relative to that region (each 64-byte
/// aligned) and their segment is unset.
struct PlannedOutput {
  muster::ipc::Manifest manifest;
  std::uint64_t bytes = 0;
};

/// Output bytes [offset, ...) = left fold of `op` over `inputs` in this order.
struct Fold {
  std::size_t output = 0;
  std::uint64_t offset = 0;
  muster::DType dtype = muster::DType::float32;
  muster::ReduceOp op = muster::ReduceOp::sum;
  std::uint64_t count = 0;  ///< elements
  muster::ipc::SmallVector<const std::byte*, 8> inputs;
};

struct CopyBytes {
  std::size_t output = 0;
  std::uint64_t offset = 0;
  const std::byte* source = nullptr;
  std::uint64_t bytes = 0;
};

/// One object that a contributor gets: an input as it is, or an output.
struct Given {
  bool is_output = false;
  std::size_t contributor = 0;  ///< index into Op::contributions, for inputs
  std::size_t index = 0;        ///< of its inputs, or of the outputs
  bool operator==(const Given&) const = default;
};

using Gives = muster::ipc::SmallVector<Given, 1>;

struct Plan {
  muster::ipc::SmallVector<PlannedOutput, 1> outputs;
  muster::ipc::SmallVector<Fold, 1> folds;
  std::vector<CopyBytes> copies;
  muster::ipc::SmallVector<Gives, 8> gives;  ///< for each contribution of the op, what it gets
  std::uint64_t work_bytes = 0;              ///< bytes read and written, to choose between inline and lanes
};

/// How a rank gets what another gave and nothing changed.
enum class Sharing : std::uint8_t {
  alias,  ///< as it is: nothing moves
  copy,   ///< as a result: where users share a group, nobody may see into the segments of another's inputs, and
          ///< whatever comes out is of several users' making
};

/// The op's contributions must agree (see check_op); Invalid where the result can't be: its shape is too large.
/// barrier, split and reform give nothing here: their outcome is the caller's business.
[[nodiscard]] muster::Result<Plan> make_plan(const Op& op, Sharing sharing = Sharing::alias);

}  // namespace musterd
