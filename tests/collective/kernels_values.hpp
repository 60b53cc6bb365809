// Elements to reduce, for tests of kernels, on the host and on GPUs.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <random>
#include <vector>

#include "daemon/collective/kernels/half.hpp"
#include "muster/types.hpp"

namespace muster::testing {

// A stretch of elements of `dtype` that mixes ordinary values, special ones and arbitrary bits.
class Values {
 public:
  explicit Values(DType dtype) : dtype_(dtype) {}

  std::vector<std::byte> make(std::size_t bytes) {
    std::vector<std::byte> made(bytes + 16);
    for (std::size_t at = 0; at < bytes;) at += put(&made[at]);
    made.resize(bytes);
    return made;
  }

 private:
  static constexpr float nan32 = std::numeric_limits<float>::quiet_NaN();
  static constexpr float inf32 = std::numeric_limits<float>::infinity();
  static constexpr double nan64 = std::numeric_limits<double>::quiet_NaN();

  std::size_t put(std::byte* to) {
    switch (dtype_) {
      case DType::float16:
        return put_part<std::uint16_t>(
            to, musterd::kernels::to_float16(ordinary()).bits,
            {0, 0x8000, 1, 0x8001, 0x3ff, 0x400, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7c01, 0xfe00});
      case DType::bfloat16:
        return put_part<std::uint16_t>(
            to, musterd::kernels::to_bfloat16(ordinary()).bits,
            {0, 0x8000, 1, 0x8001, 0x7f, 0x80, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7f81, 0xffc0});
      case DType::float32:
      case DType::complex64:
        return put_part<float>(to, ordinary(),
                               {0.0f, -0.0f, 1e-45f, -1e-45f, 1.17549435e-38f, 3.4028235e38f, -3.4028235e38f, inf32,
                                -inf32, nan32, -nan32, std::numeric_limits<float>::signaling_NaN()});
      case DType::float64:
      case DType::complex128:
        return put_part<double>(
            to, static_cast<double>(ordinary()) * 1.000000001,
            {0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308,
             HUGE_VAL, -HUGE_VAL, nan64, -nan64, std::numeric_limits<double>::signaling_NaN()});
      case DType::int64:
      case DType::uint64:
        return put_part<std::uint64_t>(
            to, random_() % 7,
            {0, 1, ~0ull, 1ull << 63, ~0ull >> 1, 1ull << 53 | 1, ~0ull >> 10, ~0ull << 10, 0xffffffff});
      case DType::int32:
      case DType::uint32:
        return put_part<std::uint32_t>(to, static_cast<std::uint32_t>(random_() % 7),
                                       {0, 1, ~0u, 1u << 31, ~0u >> 1, 0xffff});
      case DType::int16:
      case DType::uint16:
        return put_part<std::uint16_t>(to, static_cast<std::uint16_t>(random_() % 7),
                                       {0, 1, 0xffff, 0x8000, 0x7fff, 0xff});
      default: return put_part<std::uint8_t>(to, static_cast<std::uint8_t>(random_() % 7), {0, 1, 0xff, 0x80, 0x7f});
    }
  }

  template <class T>
  std::size_t put_part(std::byte* to, T usual, std::initializer_list<T> special) {
    const std::uint64_t choice = random_() % 8;
    const std::uint64_t bits = random_();
    if (choice == 0) {
      std::memcpy(to, &bits, sizeof(T));
    } else {
      const T value = choice < 3 ? special.begin()[bits % special.size()] : usual;
      std::memcpy(to, &value, sizeof(T));
    }
    return sizeof(T);
  }

  // Half of them small integers, so that equal values and exact ties of rounding occur.
  float ordinary() {
    const auto value = static_cast<float>(static_cast<std::int64_t>(random_() % 4096) - 2048);
    return random_() % 2 == 0 ? value / 64 : value * 1.2345678e-3f;
  }

  DType dtype_;
  std::mt19937_64 random_{20201101};
};

}  // namespace muster::testing
