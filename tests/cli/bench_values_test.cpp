// The benchmark's values are exact in every dtype, and the check finds any error in a result.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <functional>

#include "bench/statistics.hpp"
#include "bench/values.hpp"

using namespace muster::cli;
using muster::DType;
using muster::ReduceOp;

namespace {

template <class T>
std::vector<T> values(const Round& round, const Piece& piece, std::uint64_t count) {
  const auto bytes = pattern(round, piece, count);
  std::vector<T> found(bytes.size() / sizeof(T));
  std::memcpy(found.data(), bytes.data(), bytes.size());
  return found;
}

/// Folds the ranks' inputs in T, like the daemon.
template <class T, class Fold>
std::vector<T> fold_of(const Round& round, int part, std::uint64_t count, Fold fold) {
  auto total = values<T>(round, {0, part, false}, count);
  for (int rank = 1; rank < round.ranks; ++rank) {
    const auto next = values<T>(round, {rank, part, false}, count);
    for (std::size_t i = 0; i < total.size(); ++i) total[i] = static_cast<T>(fold(total[i], next[i]));
  }
  return total;
}

}  // namespace

TEST_CASE("the expected fold is that of the inputs") {
  for (const int ranks : {1, 2, 3, 4, 7, 8, 64}) {
    INFO(ranks);
    const auto round = [&](DType dtype, ReduceOp op) { return Round{dtype, op, ranks, 3}; };
    const Piece folded{0, 2, true};
    CHECK(values<float>(round(DType::float32, ReduceOp::sum), folded, 999) ==
          fold_of<float>(round(DType::float32, ReduceOp::sum), 2, 999, std::plus<>()));
    CHECK(values<std::int8_t>(round(DType::int8, ReduceOp::sum), folded, 999) ==
          fold_of<std::int8_t>(round(DType::int8, ReduceOp::sum), 2, 999, std::plus<>()));
    CHECK(values<std::int8_t>(round(DType::int8, ReduceOp::prod), folded, 999) ==
          fold_of<std::int8_t>(round(DType::int8, ReduceOp::prod), 2, 999, std::multiplies<>()));
    CHECK(values<double>(round(DType::float64, ReduceOp::max), folded, 999) ==
          fold_of<double>(round(DType::float64, ReduceOp::max), 2, 999,
                          [](double a, double b) { return std::max(a, b); }));
    CHECK(values<std::uint32_t>(round(DType::uint32, ReduceOp::bxor), folded, 999) ==
          fold_of<std::uint32_t>(round(DType::uint32, ReduceOp::bxor), 2, 999, std::bit_xor<>()));
    auto mean = fold_of<float>(round(DType::float32, ReduceOp::mean), 2, 999, std::plus<>());
    for (float& value : mean) value /= static_cast<float>(ranks);
    CHECK(values<float>(round(DType::float32, ReduceOp::mean), folded, 999) == mean);
  }
}

TEST_CASE("half types hold the values exactly") {
  const auto bits = values<std::uint16_t>({DType::bfloat16, ReduceOp::sum, 4, 1}, {0, 0, true}, 500);
  const auto floats = values<float>({DType::float32, ReduceOp::sum, 4, 1}, {0, 0, true}, 500);
  const auto halves = values<std::uint16_t>({DType::float16, ReduceOp::sum, 4, 1}, {0, 0, true}, 500);
  for (std::size_t i = 0; i < floats.size(); ++i) {
    const std::uint32_t wide = std::uint32_t{bits[i]} << 16;
    float from_bfloat = 0;
    std::memcpy(&from_bfloat, &wide, sizeof wide);
    CHECK(from_bfloat == floats[i]);
    const int exponent = (halves[i] >> 10) - 15;
    const double from_half = halves[i] == 0 ? 0 : std::ldexp(1 + (halves[i] & 0x3ff) / 1024.0, exponent);
    CHECK(from_half == static_cast<double>(floats[i]));
  }
}

TEST_CASE("ranks, parts and rounds have values of their own") {
  const Round round{DType::int32, ReduceOp::sum, 4, 1};
  const auto own = values<std::int32_t>(round, {0, 0, false}, 100);
  CHECK(own != values<std::int32_t>(round, {1, 0, false}, 100));
  CHECK(own != values<std::int32_t>(round, {0, 1, false}, 100));
  CHECK(own != values<std::int32_t>({DType::int32, ReduceOp::sum, 4, 2}, {0, 0, false}, 100));
}

TEST_CASE("every wrong element is counted, on whatever page it lies") {
  const Round round{DType::float64, ReduceOp::sum, 4, 1};
  const std::uint64_t count = 3 * pattern_elements + 17;
  const auto expected = pattern(round, {0, 0, true}, count);
  std::vector<std::byte> result(count * sizeof(double));
  fill(result, expected);
  CHECK(count_wrong(result, expected, sizeof(double)) == 0);
  result.back() ^= std::byte{1};
  CHECK(count_wrong(result, expected, sizeof(double)) == 1);
  for (std::size_t at = 0; at < result.size(); at += 4096) result[at] ^= std::byte{1};
  CHECK(count_wrong(result, expected, sizeof(double)) == 1 + (result.size() + 4095) / 4096);
}

TEST_CASE("a round is as slow as its slowest rank, and costs what all ranks cost") {
  const SizeReport fast{0, {{1, 10}, {2, 10}, {3, 10}}, {}};
  const SizeReport slow{2, {{5, 1}, {1, 2}, {9, 3}}, {}};
  const auto figures = summarize({fast, slow});
  CHECK(figures.min_us == 2);
  CHECK(figures.median_us == 5);
  CHECK(figures.p99_us == 9);
  CHECK(figures.cpu_us == 12);
  CHECK(figures.wrong == 2);
}
