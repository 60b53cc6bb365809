// Converts float16 and bfloat16 to and from float32, in plain C++. Conversion to float32 is exact. Conversion from
// float32 rounds to nearest even, overflows to infinity, keeps subnormals, and turns every NaN into the one quiet NaN
// that results may contain.
#pragma once

#include <bit>
#include <cstdint>

namespace musterd::kernels {

struct Float16 {
  std::uint16_t bits;
};
struct Bfloat16 {
  std::uint16_t bits;
};

inline constexpr std::uint16_t float16_nan = 0x7e00;
inline constexpr std::uint16_t bfloat16_nan = 0x7fc0;

[[nodiscard]] constexpr float to_float(Float16 value) {
  const std::uint32_t sign = (value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x0400u) return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;  // a multiple of 2^-24, exact in float32
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(subnormal));
}

[[nodiscard]] constexpr Float16 to_float16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {float16_nan};
  if (magnitude >= 0x47800000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // 2^16 and up
  if (magnitude < 0x38800000u) {
    // Below 2^-14 results are multiples of 2^-24. That is the spacing of floats at 0.5, so the addition itself rounds.
    const float rounded = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(rounded) - 0x3f000000u))};
  }
  // This rounds: it adds half of the last kept bit to odd values, and a little less to even ones. A carry out of the
  // mantissa gives the next power of two, or infinity.
  const std::uint32_t odd = magnitude >> 13 & 1u;
  return {static_cast<std::uint16_t>(sign | (magnitude - (112u << 23) + 0xfffu + odd) >> 13)};
}

[[nodiscard]] constexpr float to_float(Bfloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

[[nodiscard]] constexpr Bfloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {bfloat16_nan};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

}  // namespace musterd::kernels
