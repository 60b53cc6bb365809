// What elements are while they are folded, how two of them are folded, and how the outcome becomes an element again.
// nvcc compiles this for the GPU, and any C++ compiler for the host: tests run the same lines. It must give the bits
// that daemon/collective/kernels/README.md defines.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define MUSTERD_GPU_CODE __device__ __forceinline__
#define MUSTERD_GPU_UNROLL _Pragma("unroll")
#else
#include "daemon/collective/kernels/half.hpp"
#define MUSTERD_GPU_CODE inline
#define MUSTERD_GPU_UNROLL
#endif

namespace musterd::gpu::kernels {

template <class To, class From>
MUSTERD_GPU_CODE To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

template <class T>
struct Complex {
  T re, im;
};

/// An element of 16 bytes of which only the bits matter.
struct Bits128 {
  std::uint64_t low, high;
};

MUSTERD_GPU_CODE bool is_nan(float value) { return value != value; }
MUSTERD_GPU_CODE bool is_nan(double value) { return value != value; }

/// The one NaN that results may contain.
MUSTERD_GPU_CODE float canonical(float value) { return is_nan(value) ? same_bits<float>(0x7fc00000u) : value; }
MUSTERD_GPU_CODE double canonical(double value) {
  return is_nan(value) ? same_bits<double>(std::uint64_t{0x7ff8000000000000}) : value;
}
template <class T>
MUSTERD_GPU_CODE Complex<T> canonical(Complex<T> value) {
  return {canonical(value.re), canonical(value.im)};
}
template <class T>
MUSTERD_GPU_CODE T canonical(T value) {
  return value;
}

// The manual of PTX defines both conversions of float16 as IEEE 754 has them, subnormals included. The host has no such
// instructions, so this is the one thing here that tests on the host can't see.
MUSTERD_GPU_CODE float float_of_float16(std::uint16_t bits) {
#ifdef __CUDA_ARCH__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#elif !defined(__CUDACC__)
  return musterd::kernels::to_float(musterd::kernels::Float16{bits});
#else
  return 0;
#endif
}
MUSTERD_GPU_CODE std::uint16_t float16_of(float value) {
  if (is_nan(value)) return 0x7e00;
#ifdef __CUDA_ARCH__
  std::uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#elif !defined(__CUDACC__)
  return musterd::kernels::to_float16(value).bits;
#else
  return 0;
#endif
}
MUSTERD_GPU_CODE float float_of_bfloat16(std::uint16_t bits) {
  return same_bits<float>(static_cast<std::uint32_t>(bits) << 16);
}
MUSTERD_GPU_CODE std::uint16_t bfloat16_of(float value) {
  if (is_nan(value)) return 0x7fc0;
  const auto bits = same_bits<std::uint32_t>(value);  // rounds to nearest, ties to even, by a carry
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// ---- In: what an element is while it is folded

template <class T>
struct Plain {
  using Element = T;
  using Folded = T;
  static MUSTERD_GPU_CODE Folded load(Element element) { return element; }
};

template <class T, class To>
struct Converted {
  using Element = T;
  using Folded = To;
  static MUSTERD_GPU_CODE Folded load(Element element) { return static_cast<To>(element); }
};

struct Float16 {
  using Element = std::uint16_t;
  using Folded = float;
  static MUSTERD_GPU_CODE Folded load(Element element) { return float_of_float16(element); }
};

struct Bfloat16 {
  using Element = std::uint16_t;
  using Folded = float;
  static MUSTERD_GPU_CODE Folded load(Element element) { return float_of_bfloat16(element); }
};

/// Whether any of the bits that `ignored` leaves is set: a number is not zero, whatever its sign.
template <class T, T ignored, class To = std::uint8_t>
struct Truth {
  using Element = T;
  using Folded = To;
  static MUSTERD_GPU_CODE Folded load(Element element) {
    return static_cast<To>((element & static_cast<T>(~ignored)) != 0 ? 1 : 0);
  }
};

struct TruthOfComplex128 {
  using Element = Bits128;
  using Folded = std::uint8_t;
  static MUSTERD_GPU_CODE Folded load(Element element) { return (element.low | element.high) << 1 != 0 ? 1 : 0; }
};

// ---- Op: two of them become one; `a` is the lower ranks'

struct Add {
  static MUSTERD_GPU_CODE float fold(float a, float b) { return a + b; }
  static MUSTERD_GPU_CODE double fold(double a, double b) { return a + b; }
  template <class T>
  static MUSTERD_GPU_CODE T fold(T a, T b) {  // unsigned, so it wraps around
    return static_cast<T>(a + b);
  }
};

struct Multiply {
  static MUSTERD_GPU_CODE float fold(float a, float b) { return a * b; }
  static MUSTERD_GPU_CODE double fold(double a, double b) { return a * b; }
  template <class T>
  static MUSTERD_GPU_CODE Complex<T> fold(Complex<T> a, Complex<T> b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
  }
  template <class T>
  static MUSTERD_GPU_CODE T fold(T a, T b) {
    return static_cast<T>(a * (b + 0u));  // not in int, where the product of two large uint16 would overflow
  }
};

struct Smallest {
  static MUSTERD_GPU_CODE float fold(float a, float b) { return a < b || is_nan(a) ? a : b; }
  static MUSTERD_GPU_CODE double fold(double a, double b) { return a < b || is_nan(a) ? a : b; }
  template <class T>
  static MUSTERD_GPU_CODE T fold(T a, T b) {
    return a < b ? a : b;
  }
};

struct Largest {
  static MUSTERD_GPU_CODE float fold(float a, float b) { return a > b || is_nan(a) ? a : b; }
  static MUSTERD_GPU_CODE double fold(double a, double b) { return a > b || is_nan(a) ? a : b; }
  template <class T>
  static MUSTERD_GPU_CODE T fold(T a, T b) {
    return a > b ? a : b;
  }
};

struct And {
  template <class T>
  static MUSTERD_GPU_CODE T fold(T a, T b) {
    return static_cast<T>(a & b);
  }
};

struct Or {
  template <class T>
  static MUSTERD_GPU_CODE T fold(T a, T b) {
    return static_cast<T>(a | b);
  }
};

struct Xor {
  template <class T>
  static MUSTERD_GPU_CODE T fold(T a, T b) {
    return static_cast<T>(a ^ b);
  }
};

// ---- Out: the outcome as an element

template <class T>
struct Same {
  using Element = T;
  static MUSTERD_GPU_CODE Element finish(T folded, std::uint32_t) { return canonical(folded); }
};

template <class T>
struct Mean {
  using Element = T;
  static MUSTERD_GPU_CODE Element finish(T folded, std::uint32_t divisor) {
    return canonical(folded / static_cast<T>(divisor));
  }
};

struct ToFloat16 {
  using Element = std::uint16_t;
  static MUSTERD_GPU_CODE Element finish(float folded, std::uint32_t) { return float16_of(folded); }
};

struct ToBfloat16 {
  using Element = std::uint16_t;
  static MUSTERD_GPU_CODE Element finish(float folded, std::uint32_t) { return bfloat16_of(folded); }
};

/// The mean of half types, divided before it is rounded.
template <class To>
struct MeanThen {
  using Element = typename To::Element;
  static MUSTERD_GPU_CODE Element finish(float folded, std::uint32_t divisor) {
    return To::finish(folded / static_cast<float>(divisor), divisor);
  }
};

}  // namespace musterd::gpu::kernels
