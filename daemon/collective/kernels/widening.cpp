// Results that are wider than their inputs: the mean of integers and bool (float64), sum and prod of bool (int64).
#include "daemon/collective/kernels/families.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "daemon/collective/kernels/widening.cpp"
#include <hwy/foreach_target.h>
//
#include "daemon/collective/kernels/elements-inl.hpp"
#include "daemon/collective/kernels/fold-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace musterd::kernels::HWY_NAMESPACE {

#if MUSTERD_KERNELS_SIMD

template <class From>
void mean_of(const Reduce& call) {
  fold<Kernel<From, Sum, Mean<double>>>(call);
}

void reduce_bools_wide(const Reduce& call) {
  switch (call.op) {
    case muster::ReduceOp::sum: return fold<Kernel<WideBools, Sum, Same<std::uint64_t>>>(call);
    case muster::ReduceOp::prod: return fold<Kernel<WideBools, BitAnd, Same<std::uint64_t>>>(call);
    default: return mean_of<DoublesOfBools>(call);
  }
}

void reduce_widening(const Reduce& call) {
  switch (call.dtype) {
    case muster::DType::bool_: return reduce_bools_wide(call);
    case muster::DType::int8: return mean_of<Doubles<std::int8_t>>(call);
    case muster::DType::int16: return mean_of<Doubles<std::int16_t>>(call);
    case muster::DType::int32: return mean_of<Doubles<std::int32_t>>(call);
    case muster::DType::int64: return mean_of<Doubles<std::int64_t>>(call);
    case muster::DType::uint8: return mean_of<Doubles<std::uint8_t>>(call);
    case muster::DType::uint16: return mean_of<Doubles<std::uint16_t>>(call);
    case muster::DType::uint32: return mean_of<Doubles<std::uint32_t>>(call);
    case muster::DType::uint64: return mean_of<Doubles<std::uint64_t>>(call);
    default: return reduce_scalar(call);
  }
}

#else

void reduce_widening(const Reduce& call) { reduce_scalar(call); }

#endif

}  // namespace musterd::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace musterd::kernels {

HWY_EXPORT(reduce_widening);
void reduce_widening(const Reduce& call) { HWY_DYNAMIC_DISPATCH(reduce_widening)(call); }

}  // namespace musterd::kernels
#endif
