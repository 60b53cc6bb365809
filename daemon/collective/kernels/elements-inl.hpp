// The parts of kernels, compiled once per instruction set: how elements of a dtype are loaded as vectors to fold, how
// two vectors are folded, and how the outcome is turned into elements again.
#if defined(MUSTERD_KERNELS_ELEMENTS_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#ifdef MUSTERD_KERNELS_ELEMENTS_INL_HPP
#undef MUSTERD_KERNELS_ELEMENTS_INL_HPP
#else
#define MUSTERD_KERNELS_ELEMENTS_INL_HPP
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "daemon/collective/kernels/families.hpp"
#include "daemon/collective/kernels/half.hpp"

#if MUSTERD_KERNELS_SIMD
HWY_BEFORE_NAMESPACE();
namespace musterd::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> load_elements(D d, const std::byte* from) {
  return hn::LoadU(d, reinterpret_cast<const hn::TFromD<D>*>(from));
}

template <class D>
HWY_INLINE hn::Vec<D> canonical_nan(D d, hn::Vec<D> v) {
  return hn::IfThenElse(hn::IsNaN(v), hn::Set(d, std::numeric_limits<hn::TFromD<D>>::quiet_NaN()), v);
}

// ---- In: elements as vectors

/// Elements folded as themselves.
template <class T>
struct Plain {
  using D = hn::ScalableTag<T>;
  static constexpr std::size_t lanes = hn::MaxLanes(D());
  static constexpr std::size_t element_bytes = sizeof(T);
  static HWY_INLINE hn::Vec<D> load(const std::byte* from) { return load_elements(D(), from); }
};

/// Pairs of real and imaginary parts in neighbouring lanes.
template <class T>
struct Pairs {
  using D = hn::ScalableTag<T>;
  static constexpr std::size_t lanes = hn::MaxLanes(D()) / 2;
  static constexpr std::size_t element_bytes = 2 * sizeof(T);
  static HWY_INLINE hn::Vec<D> load(const std::byte* from) { return load_elements(D(), from); }
};

/// bool as 0 or 1, in bytes.
struct Bools {
  using D = hn::ScalableTag<std::uint8_t>;
  static constexpr std::size_t lanes = hn::MaxLanes(D());
  static constexpr std::size_t element_bytes = 1;
  static HWY_INLINE hn::Vec<D> load(const std::byte* from) {
    return hn::Min(load_elements(D(), from), hn::Set(D(), std::uint8_t{1}));
  }
};

/// bool as 0 or 1, in 64 bits.
struct WideBools {
  using D = hn::ScalableTag<std::uint64_t>;
  static constexpr std::size_t lanes = hn::MaxLanes(D());
  static constexpr std::size_t element_bytes = 1;
  static HWY_INLINE hn::Vec<D> load(const std::byte* from) {
    const hn::Rebind<std::uint8_t, D> d8;
    const hn::Rebind<std::uint32_t, D> d32;
    const auto bytes = hn::Min(load_elements(d8, from), hn::Set(d8, std::uint8_t{1}));
    return hn::PromoteTo(D(), hn::PromoteTo(d32, bytes));
  }
};

/// Integers as float64.
template <class T>
struct Doubles {
  using D = hn::ScalableTag<double>;
  static constexpr std::size_t lanes = hn::MaxLanes(D());
  static constexpr std::size_t element_bytes = sizeof(T);
  static HWY_INLINE hn::Vec<D> load(const std::byte* from) {
    const auto v = load_elements(hn::Rebind<T, D>(), from);
    if constexpr (sizeof(T) == 8) {
      return hn::ConvertTo(D(), v);
    } else if constexpr (std::is_same_v<T, std::int32_t>) {
      return hn::PromoteTo(D(), v);
    } else if constexpr (std::is_same_v<T, std::uint32_t>) {
      return hn::ConvertTo(D(), hn::PromoteTo(hn::Rebind<std::uint64_t, D>(), v));
    } else {
      return hn::PromoteTo(D(), hn::PromoteTo(hn::Rebind<std::int32_t, D>(), v));
    }
  }
};

struct DoublesOfBools {
  using D = hn::ScalableTag<double>;
  static constexpr std::size_t lanes = hn::MaxLanes(D());
  static constexpr std::size_t element_bytes = 1;
  static HWY_INLINE hn::Vec<D> load(const std::byte* from) { return hn::ConvertTo(D(), WideBools::load(from)); }
};

/// bfloat16 as float32.
struct Bfloat16s {
  using D = hn::ScalableTag<float>;
  static constexpr std::size_t lanes = hn::MaxLanes(D());
  static constexpr std::size_t element_bytes = 2;
  static HWY_INLINE hn::Vec<D> load(const std::byte* from) {
    const hn::RebindToUnsigned<D> d32;
    const auto upper = hn::PromoteTo(d32, load_elements(hn::Rebind<std::uint16_t, D>(), from));
    return hn::BitCast(D(), hn::ShiftLeft<16>(upper));
  }
};

/// float16 as float32.
struct Float16s {
  using D = hn::ScalableTag<float>;
  static constexpr std::size_t lanes = hn::MaxLanes(D());
  static constexpr std::size_t element_bytes = 2;
  static HWY_INLINE hn::Vec<D> load(const std::byte* from) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
    const hn::Rebind<hwy::float16_t, D> d16;
    return hn::PromoteTo(D(), hn::BitCast(d16, load_elements(hn::Rebind<std::uint16_t, D>(), from)));
#else
    const hn::RebindToUnsigned<D> du;
    const hn::RebindToSigned<D> di;
    const auto bits = hn::PromoteTo(du, load_elements(hn::Rebind<std::uint16_t, D>(), from));
    const auto magnitude = hn::And(bits, hn::Set(du, 0x7fffu));
    const auto sign = hn::ShiftLeft<16>(hn::Xor(bits, magnitude));
    const auto shifted = hn::ShiftLeft<13>(magnitude);
    const auto normal = hn::Add(shifted, hn::Set(du, 112u << 23));
    const auto infinite = hn::Or(shifted, hn::Set(du, 0x7f800000u));  // or NaN
    const auto subnormal =
        hn::BitCast(du, hn::Mul(hn::ConvertTo(D(), hn::BitCast(di, magnitude)), hn::Set(D(), 0x1p-24f)));
    const auto finite = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x400u)), subnormal, normal);
    const auto value = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x7c00u)), finite, infinite);
    return hn::BitCast(D(), hn::Or(value, sign));
#endif
  }
};

/// Whether an element is not zero, as all bits of its lane or none. `T` has the element's size; `ignored` are its sign
/// bits.
template <class T, T ignored>
struct Truths {
  using D = hn::ScalableTag<T>;
  static constexpr std::size_t lanes = hn::MaxLanes(D());
  static constexpr std::size_t element_bytes = sizeof(T);
  static HWY_INLINE hn::Vec<D> load(const std::byte* from) {
    const auto bits = hn::AndNot(hn::Set(D(), ignored), load_elements(D(), from));
    return hn::VecFromMask(D(), hn::Ne(bits, hn::Zero(D())));
  }
};

struct TruthsOfComplex128 {
  using D = hn::ScalableTag<std::uint64_t>;
  static constexpr std::size_t lanes = hn::MaxLanes(D());
  static constexpr std::size_t element_bytes = 16;
  static HWY_INLINE hn::Vec<D> load(const std::byte* from) {
    hn::Vec<D> re, im;
    hn::LoadInterleaved2(D(), reinterpret_cast<const std::uint64_t*>(from), re, im);
    const auto bits = hn::AndNot(hn::Set(D(), std::uint64_t{1} << 63), hn::Or(re, im));
    return hn::VecFromMask(D(), hn::Ne(bits, hn::Zero(D())));
  }
};

// ---- Op: two vectors as one

struct Sum {
  template <class D, class V>
  static HWY_INLINE V fold(D, V a, V b) {
    return hn::Add(a, b);
  }
};

/// Integers wrap. There is no multiplication of bytes, so even and odd bytes are multiplied as 16 bits.
struct Product {
  template <class D, class V>
  static HWY_INLINE V fold([[maybe_unused]] D d, V a, V b) {
    if constexpr (sizeof(hn::TFromD<D>) == 1) {
      const hn::RepartitionToWide<D> d16;
      const auto a16 = hn::BitCast(d16, a);
      const auto b16 = hn::BitCast(d16, b);
      const auto even = hn::And(hn::Mul(a16, b16), hn::Set(d16, std::uint16_t{0xff}));
      const auto odd = hn::ShiftLeft<8>(hn::Mul(hn::ShiftRight<8>(a16), hn::ShiftRight<8>(b16)));
      return hn::BitCast(d, hn::Or(even, odd));
    } else {
      return hn::Mul(a, b);
    }
  }
};

/// (a.re b.re - a.im b.im, a.im b.re + a.re b.im)
struct ComplexProduct {
  template <class D, class V>
  static HWY_INLINE V fold(D d, V a, V b) {
    const V by_re = hn::Mul(a, hn::DupEven(b));
    const V by_im = hn::Mul(hn::Reverse2(d, a), hn::DupOdd(b));
    return hn::OddEven(hn::Add(by_re, by_im), hn::Sub(by_re, by_im));
  }
};

/// Floats use the explicit formula, as instructions disagree about NaN and about -0 and +0.
struct Smallest {
  template <class D, class V>
  static HWY_INLINE V fold(D, V a, V b) {
    if constexpr (hwy::IsFloat<hn::TFromD<D>>()) {
      return hn::IfThenElse(hn::Or(hn::Lt(a, b), hn::IsNaN(a)), a, b);
    } else {
      return hn::Min(a, b);
    }
  }
};

struct Largest {
  template <class D, class V>
  static HWY_INLINE V fold(D, V a, V b) {
    if constexpr (hwy::IsFloat<hn::TFromD<D>>()) {
      return hn::IfThenElse(hn::Or(hn::Gt(a, b), hn::IsNaN(a)), a, b);
    } else {
      return hn::Max(a, b);
    }
  }
};

struct BitAnd {
  template <class D, class V>
  static HWY_INLINE V fold(D, V a, V b) {
    return hn::And(a, b);
  }
};

struct BitOr {
  template <class D, class V>
  static HWY_INLINE V fold(D, V a, V b) {
    return hn::Or(a, b);
  }
};

struct BitXor {
  template <class D, class V>
  static HWY_INLINE V fold(D, V a, V b) {
    return hn::Xor(a, b);
  }
};

// ---- Out: the outcome as elements

/// Unchanged.
template <class T, std::size_t parts = 1>
struct Same {
  using D = hn::ScalableTag<T>;
  static constexpr std::size_t element_bytes = parts * sizeof(T);
  template <class V>
  static HWY_INLINE V finish(D d, V v, std::size_t) {
    if constexpr (hwy::IsFloat<T>()) {
      return canonical_nan(d, v);
    } else {
      return v;
    }
  }
};

/// Divided by the number of ranks.
template <class T>
struct Mean {
  using D = hn::ScalableTag<T>;
  static constexpr std::size_t element_bytes = sizeof(T);
  template <class V>
  static HWY_INLINE V finish(D d, V v, std::size_t ranks) {
    return canonical_nan(d, hn::Div(v, hn::Set(d, static_cast<T>(ranks))));
  }
};

/// float32 rounded to bfloat16, to nearest even.
struct ToBfloat16 {
  using DFloat = hn::ScalableTag<float>;
  using D = hn::Rebind<std::uint16_t, DFloat>;
  static constexpr std::size_t element_bytes = 2;
  static HWY_INLINE hn::Vec<D> finish(DFloat df, hn::Vec<DFloat> v, std::size_t) {
    const hn::RebindToUnsigned<DFloat> du;
    const auto bits = hn::BitCast(du, canonical_nan(df, v));
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
    return hn::TruncateTo(D(), hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu)))));
  }
};

/// float32 rounded to float16, to nearest even.
struct ToFloat16 {
  using DFloat = hn::ScalableTag<float>;
  using D = hn::Rebind<std::uint16_t, DFloat>;
  static constexpr std::size_t element_bytes = 2;
  static HWY_INLINE hn::Vec<D> finish(DFloat df, hn::Vec<DFloat> v, std::size_t) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
    return hn::BitCast(D(), hn::DemoteTo(hn::Rebind<hwy::float16_t, DFloat>(), canonical_nan(df, v)));
#else  // as to_float16() in half.hpp does, where each step is explained
    const hn::RebindToUnsigned<DFloat> du;
    const auto bits = hn::BitCast(du, canonical_nan(df, v));
    const auto magnitude = hn::And(bits, hn::Set(du, 0x7fffffffu));
    const auto sign = hn::ShiftRight<16>(hn::Xor(bits, magnitude));
    const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1u));
    const auto normal = hn::ShiftRight<13>(hn::Add(hn::Sub(magnitude, hn::Set(du, (112u << 23) - 0xfffu)), odd));
    const auto rounded = hn::BitCast(du, hn::Add(hn::BitCast(df, magnitude), hn::Set(df, 0.5f)));
    const auto subnormal = hn::Sub(rounded, hn::Set(du, 0x3f000000u));
    const auto infinite = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x7f800000u)),
                                         hn::Set(du, std::uint32_t{float16_nan}), hn::Set(du, 0x7c00u));
    const auto finite = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x38800000u)), subnormal, normal);
    const auto value = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x47800000u)), finite, infinite);
    return hn::TruncateTo(D(), hn::Or(value, sign));
#endif
  }
};

/// The mean of half types, divided before it is rounded.
template <class To>
struct MeanThen : To {
  template <class D, class V>
  static HWY_INLINE auto finish(D df, V v, std::size_t ranks) {
    return To::finish(df, hn::Div(v, hn::Set(df, static_cast<float>(ranks))), ranks);
  }
};

/// Truths as bool.
template <class T>
struct ToBools {
  using DTruth = hn::ScalableTag<T>;
  using D = hn::Rebind<std::uint8_t, DTruth>;
  static constexpr std::size_t element_bytes = 1;
  static HWY_INLINE hn::Vec<D> finish(DTruth d, hn::Vec<DTruth> v, std::size_t) {
    const auto bits = hn::And(v, hn::Set(d, T{1}));
    if constexpr (sizeof(T) == 1) {
      return bits;
    } else {
      return hn::TruncateTo(D(), bits);
    }
  }
};

}  // namespace musterd::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif

#endif  // include guard, toggled per target
