// C++ types as elements of arrays.
#pragma once

#include <complex>
#include <cstddef>
#include <type_traits>

#include <muster/types.hpp>

namespace muster {

/// The dtype of a C++ element type.
template <class T>
[[nodiscard]] constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, bool>) return DType::bool_;
  else if constexpr (std::is_same_v<T, float>) return DType::float32;
  else if constexpr (std::is_same_v<T, double>) return DType::float64;
  else if constexpr (std::is_same_v<T, std::complex<float>>) return DType::complex64;
  else if constexpr (std::is_same_v<T, std::complex<double>>) return DType::complex128;
  else {
    static_assert(std::is_integral_v<T>, "no dtype for this type");
    constexpr int base = std::is_signed_v<T> ? 1 : 5;
    constexpr int log2 = sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3;
    return static_cast<DType>(base + log2);
  }
}

/// Whether elements of the dtype can be read as T: if T is their type, or std::byte. The size decides for float16 and
/// bfloat16, for which C++20 has no types, and for types T that have no dtype.
template <class T>
[[nodiscard]] constexpr bool reads_as(DType dtype) {
  if constexpr (std::is_same_v<T, std::byte>) return true;
  constexpr bool has_dtype =
      std::is_arithmetic_v<T> || std::is_same_v<T, std::complex<float>> || std::is_same_v<T, std::complex<double>>;
  if constexpr (has_dtype && !std::is_same_v<T, long double>)
    if (dtype != DType::float16 && dtype != DType::bfloat16) return dtype == dtype_of<T>();
  return sizeof(T) == size_of(dtype);
}

}  // namespace muster
