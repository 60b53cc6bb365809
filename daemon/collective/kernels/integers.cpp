// Integers: sum, prod, min and max. Signed sums and products are those of unsigned integers, bit by bit.
#include "daemon/collective/kernels/families.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "daemon/collective/kernels/integers.cpp"
#include <hwy/foreach_target.h>
//
#include "daemon/collective/kernels/elements-inl.hpp"
#include "daemon/collective/kernels/fold-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace musterd::kernels::HWY_NAMESPACE {

#if MUSTERD_KERNELS_SIMD

template <class T>
void reduce_integers_of(const Reduce& call) {
  using U = std::make_unsigned_t<T>;
  switch (call.op) {
    case muster::ReduceOp::sum: return fold<Kernel<Plain<U>, Sum, Same<U>>>(call);
    case muster::ReduceOp::prod: return fold<Kernel<Plain<U>, Product, Same<U>>>(call);
    case muster::ReduceOp::min: return fold<Kernel<Plain<T>, Smallest, Same<T>>>(call);
    case muster::ReduceOp::max: return fold<Kernel<Plain<T>, Largest, Same<T>>>(call);
    default: return reduce_scalar(call);
  }
}

void reduce_integers(const Reduce& call) {
  switch (call.dtype) {
    case muster::DType::int8: return reduce_integers_of<std::int8_t>(call);
    case muster::DType::int16: return reduce_integers_of<std::int16_t>(call);
    case muster::DType::int32: return reduce_integers_of<std::int32_t>(call);
    case muster::DType::int64: return reduce_integers_of<std::int64_t>(call);
    case muster::DType::uint8: return reduce_integers_of<std::uint8_t>(call);
    case muster::DType::uint16: return reduce_integers_of<std::uint16_t>(call);
    case muster::DType::uint32: return reduce_integers_of<std::uint32_t>(call);
    case muster::DType::uint64: return reduce_integers_of<std::uint64_t>(call);
    default: return reduce_scalar(call);
  }
}

#else

void reduce_integers(const Reduce& call) { reduce_scalar(call); }

#endif

}  // namespace musterd::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace musterd::kernels {

HWY_EXPORT(reduce_integers);
void reduce_integers(const Reduce& call) { HWY_DYNAMIC_DISPATCH(reduce_integers)(call); }

}  // namespace musterd::kernels
#endif
