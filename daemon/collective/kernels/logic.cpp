// Bits and truth: band, bor and bxor of integers, land and lor of every dtype, min, max and bitwise ops of bool.
#include "daemon/collective/kernels/families.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "daemon/collective/kernels/logic.cpp"
#include <hwy/foreach_target.h>
//
#include "daemon/collective/kernels/elements-inl.hpp"
#include "daemon/collective/kernels/fold-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace musterd::kernels::HWY_NAMESPACE {

#if MUSTERD_KERNELS_SIMD

// On 0 and 1, land, band and min are one op, and so are lor, bor and max.
template <class From, class To>
void fold_bits(const Reduce& call) {
  switch (call.op) {
    case muster::ReduceOp::land:
    case muster::ReduceOp::band:
    case muster::ReduceOp::min: return fold<Kernel<From, BitAnd, To>>(call);
    case muster::ReduceOp::lor:
    case muster::ReduceOp::bor:
    case muster::ReduceOp::max: return fold<Kernel<From, BitOr, To>>(call);
    case muster::ReduceOp::bxor: return fold<Kernel<From, BitXor, To>>(call);
    default: return reduce_scalar(call);
  }
}

template <class From>
void fold_truths(const Reduce& call) {
  using To = ToBools<hn::TFromD<typename From::D>>;
  if (call.op == muster::ReduceOp::land) return fold<Kernel<From, BitAnd, To>>(call);
  return fold<Kernel<From, BitOr, To>>(call);
}

void reduce_truth(const Reduce& call) {
  switch (call.dtype) {
    case muster::DType::int8:
    case muster::DType::uint8: return fold_truths<Truths<std::uint8_t, 0>>(call);
    case muster::DType::int16:
    case muster::DType::uint16: return fold_truths<Truths<std::uint16_t, 0>>(call);
    case muster::DType::float16:
    case muster::DType::bfloat16: return fold_truths<Truths<std::uint16_t, 0x8000>>(call);
    case muster::DType::int32:
    case muster::DType::uint32: return fold_truths<Truths<std::uint32_t, 0>>(call);
    case muster::DType::float32: return fold_truths<Truths<std::uint32_t, 0x80000000>>(call);
    case muster::DType::int64:
    case muster::DType::uint64: return fold_truths<Truths<std::uint64_t, 0>>(call);
    case muster::DType::float64: return fold_truths<Truths<std::uint64_t, 0x8000000000000000>>(call);
    case muster::DType::complex64: return fold_truths<Truths<std::uint64_t, 0x8000000080000000>>(call);
    case muster::DType::complex128: return fold_truths<TruthsOfComplex128>(call);
    default: return reduce_scalar(call);
  }
}

void reduce_logic(const Reduce& call) {
  if (call.dtype == muster::DType::bool_) return fold_bits<Bools, Same<std::uint8_t>>(call);
  if (call.op == muster::ReduceOp::land || call.op == muster::ReduceOp::lor) return reduce_truth(call);
  Reduce bytes = call;
  bytes.count *= muster::size_of(call.dtype);
  fold_bits<Plain<std::uint8_t>, Same<std::uint8_t>>(bytes);
}

#else

void reduce_logic(const Reduce& call) { reduce_scalar(call); }

#endif

}  // namespace musterd::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace musterd::kernels {

HWY_EXPORT(reduce_logic);
void reduce_logic(const Reduce& call) { HWY_DYNAMIC_DISPATCH(reduce_logic)(call); }

}  // namespace musterd::kernels
#endif
