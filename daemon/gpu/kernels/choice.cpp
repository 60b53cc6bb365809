// Which kernel serves which dtype and op. Several pairs share one where the bits are the same.
#include "daemon/gpu/kernels/choice.hpp"

#include <array>
#include <cstddef>

#include "daemon/gpu/kernels/kernel_list.hpp"
#include "daemon/gpu/kernels/numbers.cuh"

namespace musterd::gpu::kernels {
namespace {

using muster::DType;
using muster::ReduceOp;

enum class Kernel : std::uint8_t {
#define MUSTERD_GPU_ENUMERATOR(name, ...) name,
  MUSTERD_GPU_FOLDS(MUSTERD_GPU_ENUMERATOR)
};

constexpr std::array fold_kernels{
#define MUSTERD_GPU_FOLD_KERNELS(name, Op, Out, ...) \
  FoldKernels{"muster_fold_few_" #name,              \
              "muster_fold_many_" #name,             \
              "muster_scan_" #name,                  \
              {sizeof(__VA_ARGS__::Element), sizeof(Out::Element)}},
    MUSTERD_GPU_FOLDS(MUSTERD_GPU_FOLD_KERNELS)};

/// The kernel of a pair of dtype and op, and how many of its elements an element of the dtype is.
struct Choice {
  Kernel kernel;
  std::uint32_t parts = 1;
};

/// The kernel of a type of integers, by their width and sign.
Kernel of_integers(DType dtype, std::array<Kernel, 8> kernels) {
  return kernels.at(static_cast<std::size_t>(dtype) - static_cast<std::size_t>(DType::int8));
}

#define MUSTERD_GPU_BY_WIDTH(op)                                                                              \
  {                                                                                                           \
    Kernel::op##_u8, Kernel::op##_u16, Kernel::op##_u32, Kernel::op##_u64, Kernel::op##_u8, Kernel::op##_u16, \
        Kernel::op##_u32, Kernel::op##_u64                                                                    \
  }
#define MUSTERD_GPU_BY_SIGN(op)                                                                               \
  {                                                                                                           \
    Kernel::op##_i8, Kernel::op##_i16, Kernel::op##_i32, Kernel::op##_i64, Kernel::op##_u8, Kernel::op##_u16, \
        Kernel::op##_u32, Kernel::op##_u64                                                                    \
  }

Choice of_integers(DType dtype, ReduceOp op) {
  const auto bytes = static_cast<std::uint32_t>(muster::size_of(dtype));
  switch (op) {
    case ReduceOp::sum: return {of_integers(dtype, MUSTERD_GPU_BY_WIDTH(sum))};
    case ReduceOp::prod: return {of_integers(dtype, MUSTERD_GPU_BY_WIDTH(prod))};
    case ReduceOp::min: return {of_integers(dtype, MUSTERD_GPU_BY_SIGN(min))};
    case ReduceOp::max: return {of_integers(dtype, MUSTERD_GPU_BY_SIGN(max))};
    case ReduceOp::mean: return {of_integers(dtype, MUSTERD_GPU_BY_SIGN(mean))};
    case ReduceOp::band: return {Kernel::and_bits, bytes};
    case ReduceOp::bor: return {Kernel::or_bits, bytes};
    case ReduceOp::bxor: return {Kernel::xor_bits, bytes};
    case ReduceOp::land: return {of_integers(dtype, MUSTERD_GPU_BY_WIDTH(land))};
    case ReduceOp::lor: return {of_integers(dtype, MUSTERD_GPU_BY_WIDTH(lor))};
  }
  return {};
}

/// On 0 and 1, land, band and min are one op, and so are lor, bor and max.
Choice of_bools(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return {Kernel::sum_bool};
    case ReduceOp::prod: return {Kernel::prod_bool};
    case ReduceOp::mean: return {Kernel::mean_bool};
    case ReduceOp::bxor: return {Kernel::xor_bool};
    case ReduceOp::min:
    case ReduceOp::band:
    case ReduceOp::land: return {Kernel::land_u8};
    case ReduceOp::max:
    case ReduceOp::bor:
    case ReduceOp::lor: return {Kernel::lor_u8};
  }
  return {};
}

/// `by_type`: of float16, bfloat16, float32, float64; complex numbers are summed part by part.
Choice of_floats(DType dtype, std::array<Kernel, 4> by_type) {
  switch (dtype) {
    case DType::float16: return {by_type[0]};
    case DType::bfloat16: return {by_type[1]};
    case DType::float32: return {by_type[2]};
    case DType::float64: return {by_type[3]};
    case DType::complex64: return {by_type[2], 2};
    default: return {by_type[3], 2};
  }
}
#define MUSTERD_GPU_BY_FLOAT(op) \
  { Kernel::op##_f16, Kernel::op##_bf16, Kernel::op##_f32, Kernel::op##_f64 }

Choice of_truths(DType dtype, std::array<Kernel, 5> by_type) {
  switch (dtype) {
    case DType::float16:
    case DType::bfloat16: return {by_type[0]};
    case DType::float32: return {by_type[1]};
    case DType::float64: return {by_type[2]};
    case DType::complex64: return {by_type[3]};
    default: return {by_type[4]};
  }
}
#define MUSTERD_GPU_BY_TRUTH(op) \
  { Kernel::op##_half, Kernel::op##_f32, Kernel::op##_f64, Kernel::op##_c64, Kernel::op##_c128 }

Choice of_numbers(DType dtype, ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return of_floats(dtype, MUSTERD_GPU_BY_FLOAT(sum));
    case ReduceOp::mean: return of_floats(dtype, MUSTERD_GPU_BY_FLOAT(mean));
    case ReduceOp::min: return of_floats(dtype, MUSTERD_GPU_BY_FLOAT(min));
    case ReduceOp::max: return of_floats(dtype, MUSTERD_GPU_BY_FLOAT(max));
    case ReduceOp::prod:
      if (dtype == DType::complex64) return {Kernel::prod_c64};
      if (dtype == DType::complex128) return {Kernel::prod_c128};
      return of_floats(dtype, MUSTERD_GPU_BY_FLOAT(prod));
    case ReduceOp::land: return of_truths(dtype, MUSTERD_GPU_BY_TRUTH(land));
    default: return of_truths(dtype, MUSTERD_GPU_BY_TRUTH(lor));
  }
}

enum class Premultiplied : std::uint8_t {
#define MUSTERD_GPU_PREMULTIPLIED(name, ...) name,
  MUSTERD_GPU_PREMULTIPLIES(MUSTERD_GPU_PREMULTIPLIED)
};
constexpr std::array premultiply_kernels{
#define MUSTERD_GPU_PREMULTIPLY_KERNEL(name, Out, ...) \
  PremultiplyKernel{"muster_premultiply_" #name, {sizeof(Out::Element), sizeof(Out::Element)}},
    MUSTERD_GPU_PREMULTIPLIES(MUSTERD_GPU_PREMULTIPLY_KERNEL)};

Premultiplied premultiplied(DType dtype) {
  switch (dtype) {
    case DType::float16: return Premultiplied::f16;
    case DType::bfloat16: return Premultiplied::bf16;
    case DType::float32:
    case DType::complex64: return Premultiplied::f32;
    case DType::float64:
    case DType::complex128: return Premultiplied::f64;
    default: break;
  }
  switch (muster::size_of(dtype)) {
    case 1: return Premultiplied::u8;
    case 2: return Premultiplied::u16;
    case 4: return Premultiplied::u32;
    default: return Premultiplied::u64;
  }
}

}  // namespace

std::optional<FoldChoice> choose_fold(DType dtype, ReduceOp op) {
  if (!muster::result_dtype(dtype, op)) return std::nullopt;
  const Choice choice = dtype == DType::bool_       ? of_bools(op)
                        : muster::is_integer(dtype) ? of_integers(dtype, op)
                                                    : of_numbers(dtype, op);
  return FoldChoice{&fold_kernels.at(static_cast<std::size_t>(choice.kernel)), choice.parts};
}

const PremultiplyKernel& choose_premultiply(DType dtype) {
  return premultiply_kernels.at(static_cast<std::size_t>(premultiplied(dtype)));
}

}  // namespace musterd::gpu::kernels
