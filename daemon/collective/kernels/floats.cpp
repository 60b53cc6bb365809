// float32, float64, complex64 and complex128: sum, prod, min, max and mean.
#include "daemon/collective/kernels/families.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "daemon/collective/kernels/floats.cpp"
#include <hwy/foreach_target.h>
//
#include "daemon/collective/kernels/elements-inl.hpp"
#include "daemon/collective/kernels/fold-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace musterd::kernels::HWY_NAMESPACE {

#if MUSTERD_KERNELS_SIMD

template <class T>
void reduce_reals(const Reduce& call) {
  switch (call.op) {
    case muster::ReduceOp::sum: return fold<Kernel<Plain<T>, Sum, Same<T>>>(call);
    case muster::ReduceOp::prod: return fold<Kernel<Plain<T>, Product, Same<T>>>(call);
    case muster::ReduceOp::min: return fold<Kernel<Plain<T>, Smallest, Same<T>>>(call);
    case muster::ReduceOp::max: return fold<Kernel<Plain<T>, Largest, Same<T>>>(call);
    case muster::ReduceOp::mean: return fold<Kernel<Plain<T>, Sum, Mean<T>>>(call);
    default: return reduce_scalar(call);
  }
}

// The parts of complex numbers are summed as twice as many reals.
template <class T>
void reduce_complex(const Reduce& call) {
  if (call.op == muster::ReduceOp::prod) return fold<Kernel<Pairs<T>, ComplexProduct, Same<T, 2>>>(call);
  Reduce parts = call;
  parts.count *= 2;
  reduce_reals<T>(parts);
}

void reduce_floats(const Reduce& call) {
  switch (call.dtype) {
    case muster::DType::float32: return reduce_reals<float>(call);
    case muster::DType::float64: return reduce_reals<double>(call);
    case muster::DType::complex64: return reduce_complex<float>(call);
    case muster::DType::complex128: return reduce_complex<double>(call);
    default: return reduce_scalar(call);
  }
}

#else

void reduce_floats(const Reduce& call) { reduce_scalar(call); }

#endif

}  // namespace musterd::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace musterd::kernels {

HWY_EXPORT(reduce_floats);
void reduce_floats(const Reduce& call) { HWY_DYNAMIC_DISPATCH(reduce_floats)(call); }

}  // namespace musterd::kernels
#endif
