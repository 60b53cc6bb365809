// float16 and bfloat16: sum, prod, min, max and mean, folded in float32.
#include "daemon/collective/kernels/families.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "daemon/collective/kernels/halves.cpp"
#include <hwy/foreach_target.h>
//
#include "daemon/collective/kernels/elements-inl.hpp"
#include "daemon/collective/kernels/fold-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace musterd::kernels::HWY_NAMESPACE {

#if MUSTERD_KERNELS_SIMD

template <class From, class To>
void reduce_as_floats(const Reduce& call) {
  switch (call.op) {
    case muster::ReduceOp::sum: return fold<Kernel<From, Sum, To>>(call);
    case muster::ReduceOp::prod: return fold<Kernel<From, Product, To>>(call);
    case muster::ReduceOp::min: return fold<Kernel<From, Smallest, To>>(call);
    case muster::ReduceOp::max: return fold<Kernel<From, Largest, To>>(call);
    case muster::ReduceOp::mean: return fold<Kernel<From, Sum, MeanThen<To>>>(call);
    default: return reduce_scalar(call);
  }
}

void reduce_halves(const Reduce& call) {
  if (call.dtype == muster::DType::float16) return reduce_as_floats<Float16s, ToFloat16>(call);
  return reduce_as_floats<Bfloat16s, ToBfloat16>(call);
}

#else

void reduce_halves(const Reduce& call) { reduce_scalar(call); }

#endif

}  // namespace musterd::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace musterd::kernels {

HWY_EXPORT(reduce_halves);
void reduce_halves(const Reduce& call) { HWY_DYNAMIC_DISPATCH(reduce_halves)(call); }

}  // namespace musterd::kernels
#endif
