// Defines the numbers of a reduction by examples, checked on the reference and on every dispatch target of this CPU.
#include <catch2/catch.hpp>
#include <cmath>
#include <complex>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <vector>

#include "daemon/collective/kernels/half.hpp"
#include "daemon/collective/kernels/reduce.hpp"
#include "kernels_cases.hpp"
#include "kernels_targets.hpp"

namespace {

using muster::DType;
using muster::ReduceOp;
using muster::testing::describe;
using muster::testing::OnTarget;
using muster::testing::output_size;
using muster::testing::targets;
using musterd::kernels::Bfloat16;
using musterd::kernels::Float16;
using musterd::kernels::Reduce;
using musterd::kernels::reduce;
using musterd::kernels::reduce_scalar;

constexpr float nan32 = std::numeric_limits<float>::quiet_NaN();
constexpr float inf32 = std::numeric_limits<float>::infinity();
constexpr double nan64 = std::numeric_limits<double>::quiet_NaN();

// Reduces one element per rank with the reference and with every target. They must agree before the caller sees the
// result.
template <class Out, class In>
Out reduced(DType dtype, ReduceOp op, std::initializer_list<In> ranks) {
  std::vector<const std::byte*> inputs;
  for (const In& value : ranks) inputs.push_back(reinterpret_cast<const std::byte*>(&value));
  Out expected{};
  REQUIRE(sizeof(Out) == output_size({dtype, op}));
  reduce_scalar(
      {.dtype = dtype, .op = op, .inputs = inputs, .output = reinterpret_cast<std::byte*>(&expected), .count = 1});
  for (const std::int64_t target : targets()) {
    INFO(describe({dtype, op}) << " on " << hwy::TargetName(target));
    const OnTarget on(target);
    Out got{};
    reduce({.dtype = dtype, .op = op, .inputs = inputs, .output = reinterpret_cast<std::byte*>(&got), .count = 1});
    REQUIRE(std::memcmp(&got, &expected, sizeof(Out)) == 0);
  }
  return expected;
}

TEST_CASE("float16 means what IEEE 754 says, for all of its 65536 bit patterns") {
  using musterd::kernels::to_float;
  using musterd::kernels::to_float16;
  const auto value_of = [](std::uint32_t magnitude) {  // 0x7c00 stands for 2^16, where rounding turns to infinity
    const int exponent = static_cast<int>(magnitude >> 10);
    const auto fraction = static_cast<double>(magnitude & 0x3ff);
    return exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  };
  for (std::uint32_t magnitude = 0; magnitude <= 0x7c00; ++magnitude) {
    const auto bits = static_cast<std::uint16_t>(magnitude);
    const double exact = value_of(magnitude);
    if (magnitude < 0x7c00) REQUIRE(static_cast<double>(to_float(Float16{bits})) == exact);
    REQUIRE(to_float16(static_cast<float>(exact)).bits == bits);
    if (magnitude == 0) continue;
    // Between this value and the one below it: just below the middle, the middle itself, and just above it.
    const auto middle = static_cast<float>((exact + value_of(magnitude - 1)) / 2);
    REQUIRE(to_float16(std::nextafter(middle, 0.0f)).bits == bits - 1);
    REQUIRE(to_float16(middle).bits == (bits % 2 == 0 ? bits : bits - 1));
    REQUIRE(to_float16(std::nextafter(middle, 1e9f)).bits == bits);
    REQUIRE(to_float16(-middle).bits == (0x8000 | to_float16(middle).bits));
  }
  REQUIRE(to_float(Float16{0x7c00}) == inf32);
  REQUIRE(to_float(Float16{0xfc00}) == -inf32);
  REQUIRE(to_float16(inf32).bits == 0x7c00);
  REQUIRE(to_float16(-1e30f).bits == 0xfc00);
  for (std::uint16_t nan = 0x7c01; nan < 0x8000; ++nan) {
    REQUIRE(std::isnan(to_float(Float16{nan})));
    REQUIRE(to_float16(to_float(Float16{nan})).bits == 0x7e00);
  }
}

TEST_CASE("bfloat16 is the upper half of a float32, rounded to nearest even") {
  using musterd::kernels::to_bfloat16;
  using musterd::kernels::to_float;
  const auto from_bits = [](std::uint32_t bits) { return std::bit_cast<float>(bits); };
  for (std::uint32_t upper = 0; upper < 0x7f80; ++upper) {
    const auto odd = upper & 1u;
    REQUIRE(to_bfloat16(to_float(Bfloat16{static_cast<std::uint16_t>(upper)})).bits == upper);
    REQUIRE(to_bfloat16(from_bits(upper << 16 | 0x7fff)).bits == upper);
    REQUIRE(to_bfloat16(from_bits(upper << 16 | 0x8000)).bits == upper + odd);
    REQUIRE(to_bfloat16(from_bits(upper << 16 | 0x8001)).bits == upper + 1);
    REQUIRE(to_bfloat16(from_bits(0x80000000u | upper << 16 | 0x8001)).bits == (0x8000 | (upper + 1)));
  }
  REQUIRE(to_bfloat16(inf32).bits == 0x7f80);
  REQUIRE(to_bfloat16(-inf32).bits == 0xff80);
  for (const std::uint32_t nan : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu})
    REQUIRE(to_bfloat16(from_bits(nan)).bits == 0x7fc0);
}

TEST_CASE("integers wrap around") {
  REQUIRE(reduced<std::int8_t, std::int8_t>(DType::int8, ReduceOp::sum, {127, 1}) == -128);
  REQUIRE(reduced<std::uint8_t, std::uint8_t>(DType::uint8, ReduceOp::prod, {16, 17}) == 16);
  REQUIRE(reduced<std::int16_t, std::int16_t>(DType::int16, ReduceOp::prod, {-32768, -1}) == -32768);
  REQUIRE(reduced<std::uint16_t, std::uint16_t>(DType::uint16, ReduceOp::prod, {65535, 65535}) == 1);
  REQUIRE(reduced<std::int32_t, std::int32_t>(DType::int32, ReduceOp::sum, {2147483647, 1}) ==
          std::numeric_limits<int>::min());
  REQUIRE(reduced<std::uint64_t, std::uint64_t>(DType::uint64, ReduceOp::prod, {0x100000001, 0x100000001}) ==
          0x200000001);
  REQUIRE(reduced<std::int64_t, std::int64_t>(DType::int64, ReduceOp::prod, {-3, 5, 7}) == -105);
}

TEST_CASE("min and max honour the sign of integers") {
  REQUIRE(reduced<std::int8_t, std::int8_t>(DType::int8, ReduceOp::min, {1, -1, 3}) == -1);
  REQUIRE(reduced<std::uint8_t, std::uint8_t>(DType::uint8, ReduceOp::min, {1, 255, 3}) == 1);
  REQUIRE(reduced<std::int64_t, std::int64_t>(DType::int64, ReduceOp::max, {-5, -1, -3}) == -1);
  REQUIRE(reduced<std::uint64_t, std::uint64_t>(DType::uint64, ReduceOp::max, {5, ~0ull, 3}) == ~0ull);
}

TEST_CASE("bool counts any byte but zero as true") {
  using Byte = std::uint8_t;
  REQUIRE(reduced<std::int64_t, Byte>(DType::bool_, ReduceOp::sum, {1, 0, 2, 255}) == 3);
  REQUIRE(reduced<std::int64_t, Byte>(DType::bool_, ReduceOp::prod, {1, 2, 255}) == 1);
  REQUIRE(reduced<double, Byte>(DType::bool_, ReduceOp::mean, {1, 0, 2, 0}) == 0.5);
  REQUIRE(reduced<Byte, Byte>(DType::bool_, ReduceOp::band, {1, 2}) == 1);
  REQUIRE(reduced<Byte, Byte>(DType::bool_, ReduceOp::bor, {0, 4}) == 1);
  REQUIRE(reduced<Byte, Byte>(DType::bool_, ReduceOp::bxor, {1, 2}) == 0);
  REQUIRE(reduced<Byte, Byte>(DType::bool_, ReduceOp::min, {9, 0}) == 0);
  REQUIRE(reduced<Byte, Byte>(DType::bool_, ReduceOp::max, {9, 0}) == 1);
  REQUIRE(reduced<Byte, Byte>(DType::bool_, ReduceOp::max, {7}) == 1);
}

TEST_CASE("mean of integers is float64") {
  REQUIRE(reduced<double, std::int8_t>(DType::int8, ReduceOp::mean, {127, 126}) == 126.5);
  REQUIRE(reduced<double, std::uint64_t>(DType::uint64, ReduceOp::mean, {~0ull, ~0ull}) == 18446744073709551616.0);
  REQUIRE(reduced<double, std::int64_t>(DType::int64, ReduceOp::mean, {std::numeric_limits<std::int64_t>::min(), 0}) ==
          -4611686018427387904.0);
  REQUIRE(reduced<double, std::int64_t>(DType::int64, ReduceOp::mean, {9007199254740993}) == 9007199254740992.0);
}

TEST_CASE("floats: rank order, NaN and infinity") {
  REQUIRE(reduced<float, float>(DType::float32, ReduceOp::sum, {1e8f, 1.0f, -1e8f}) == 0.0f);
  REQUIRE(reduced<float, float>(DType::float32, ReduceOp::sum, {1e8f, -1e8f, 1.0f}) == 1.0f);
  REQUIRE(reduced<float, float>(DType::float32, ReduceOp::mean, {1.0f, 2.0f, 4.0f}) == 7.0f / 3.0f);
  REQUIRE(reduced<double, double>(DType::float64, ReduceOp::prod, {1e200, 1e200}) == HUGE_VAL);
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::prod, ReduceOp::min, ReduceOp::max, ReduceOp::mean}) {
    for (const float other : {1.0f, -inf32, inf32, -0.0f}) {
      REQUIRE(std::isnan(reduced<float, float>(DType::float32, op, {other, -nan32})));
      REQUIRE(std::isnan(reduced<float, float>(DType::float32, op, {nan32, other, other})));
    }
  }
  REQUIRE(std::isnan(reduced<float, float>(DType::float32, ReduceOp::sum, {inf32, -inf32})));
  REQUIRE(std::signbit(reduced<float, float>(DType::float32, ReduceOp::min, {0.0f, -0.0f})));
  REQUIRE(!std::signbit(reduced<float, float>(DType::float32, ReduceOp::min, {-0.0f, 0.0f})));
}

TEST_CASE("every NaN of a result is the same quiet NaN") {
  const auto odd_nan = std::bit_cast<float>(0xffa12345u);
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::prod, ReduceOp::min, ReduceOp::max, ReduceOp::mean})
    REQUIRE(std::bit_cast<std::uint32_t>(reduced<float, float>(DType::float32, op, {1.0f, odd_nan, nan32})) ==
            0x7fc00000u);
}

TEST_CASE("half types are summed in float32 and rounded once") {
  using musterd::kernels::to_bfloat16;
  using musterd::kernels::to_float;
  using musterd::kernels::to_float16;
  const auto half = [](float value) { return to_float16(value).bits; };
  const auto brain = [](float value) { return to_bfloat16(value).bits; };
  // 2048 + 1 is not a float16; rounding after every step would lose both ones.
  REQUIRE(reduced<std::uint16_t, std::uint16_t>(DType::float16, ReduceOp::sum, {half(2048), half(1), half(1)}) ==
          half(2050));
  REQUIRE(reduced<std::uint16_t, std::uint16_t>(DType::bfloat16, ReduceOp::sum, {brain(256), brain(1), brain(1)}) ==
          brain(258));
  REQUIRE(reduced<std::uint16_t, std::uint16_t>(DType::float16, ReduceOp::sum, {half(65504), half(65504)}) == 0x7c00);
  REQUIRE(reduced<std::uint16_t, std::uint16_t>(DType::float16, ReduceOp::mean, {half(65504), half(65504)}) ==
          half(65504));
  REQUIRE(reduced<std::uint16_t, std::uint16_t>(DType::float16, ReduceOp::prod, {1, half(0.5f)}) == 0);
  REQUIRE(reduced<std::uint16_t, std::uint16_t>(DType::float16, ReduceOp::prod, {3, half(0.5f)}) == 2);
  REQUIRE(reduced<std::uint16_t, std::uint16_t>(DType::float16, ReduceOp::min, {0x0001, 0x8001}) == 0x8001);
  REQUIRE(reduced<std::uint16_t, std::uint16_t>(DType::bfloat16, ReduceOp::max, {0x7f81, 0}) == 0x7fc0);
}

TEST_CASE("complex numbers: the naive product, NaN and either part are true") {
  using C = std::complex<double>;
  REQUIRE(reduced<C, C>(DType::complex128, ReduceOp::prod, {C(1, 2), C(3, -4)}) == C(11, 2));
  REQUIRE(reduced<C, C>(DType::complex128, ReduceOp::mean, {C(1, 2), C(3, -4)}) == C(2, -1));
  const C overflow = reduced<C, C>(DType::complex128, ReduceOp::prod, {C(1e300, 1e300), C(1e300, 1e300)});
  REQUIRE(std::isnan(overflow.real()));
  REQUIRE(overflow.imag() == HUGE_VAL);
  REQUIRE(reduced<std::uint8_t, C>(DType::complex128, ReduceOp::land, {C(0, 1), C(nan64, 0)}) == 1);
  REQUIRE(reduced<std::uint8_t, C>(DType::complex128, ReduceOp::land, {C(0, 1), C(-0.0, 0)}) == 0);
  REQUIRE(reduced<std::uint8_t, std::complex<float>>(DType::complex64, ReduceOp::lor, {{0, -0.0f}, {0, 1e-45f}}) == 1);
}

}  // namespace
