// Which kernels serve a dtype and op, and what a launch must know about them.
#pragma once

#include <cstdint>
#include <optional>

#include <muster/types.hpp>

namespace musterd::gpu::kernels {

/// Bytes of an element.
struct Widths {
  std::uint32_t in_bytes;
  std::uint32_t out_bytes;
};

/// The names of the kernels of one fold.
struct FoldKernels {
  const char* few;
  const char* many;
  const char* scan;
  Widths widths;
};

struct FoldChoice {
  const FoldKernels* kernels;
  std::uint32_t parts;  ///< how many of the kernels' elements one element of the dtype is
};

struct PremultiplyKernel {
  const char* name;
  Widths widths;
};

/// Nothing if the op has no meaning for the dtype.
[[nodiscard]] std::optional<FoldChoice> choose_fold(muster::DType dtype, muster::ReduceOp op);
/// For every dtype but bool. Complex numbers are multiplied part by part.
[[nodiscard]] const PremultiplyKernel& choose_premultiply(muster::DType dtype);

}  // namespace musterd::gpu::kernels
