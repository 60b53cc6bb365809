// The reduction of a collective: N inputs folded in rank order into one output, in one pass over memory.
// The bits of a result depend on nothing but the inputs and their order; README.md says how numbers are defined.
#pragma once

#include <cstddef>
#include <span>

#include "muster/types.hpp"

namespace musterd::kernels {

/// One call. `muster::result_dtype(dtype, op)` must have a value; it is the dtype of the output.
struct Reduce {
  muster::DType dtype;
  muster::ReduceOp op;
  std::span<const std::byte* const> inputs;  ///< in rank order, at least one, any alignment
  std::byte* output;                         ///< any alignment; overlaps no input; not used by a scan
  std::size_t count;                         ///< elements of each input, and of the output
  /// Outputs of at least this many bytes bypass the caches: a reader would not find them there anyway.
  std::size_t stream_bytes_min = std::size_t{4} << 20;
  /// Empty, or for a scan one output for each input, which gets the fold of the inputs up to that one. Null if that
  /// output is not needed. Each input is read once, each prefix is written once, and the accumulator is never rounded.
  std::span<std::byte* const> prefixes = {};
};

/// Left fold in rank order with the best instructions of this CPU. `mean` divides by the number of inputs folded.
void reduce(const Reduce& call);

/// Gives the same bits in plain C++. reduce() is tested against this, and CPUs without SIMD run it.
void reduce_scalar(const Reduce& call);

/// The instructions that reduce() uses on this CPU: "AVX2", "AVX-512", "NEON", ...
[[nodiscard]] const char* instruction_set();

}  // namespace musterd::kernels
