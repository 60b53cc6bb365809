// Hashes round, rank, part and index to one integer per element, then writes it in the dtype.
#include "values.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace muster::cli {

namespace {

std::uint32_t mix(std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
  std::uint32_t x = a * 0x9E3779B1U ^ (b + 1) * 0x85EBCA77U ^ (c + 1) * 0xC2B2AE3DU ^ (d + 1) * 0x27D4EB2FU;
  x = (x ^ (x >> 15)) * 0x2C1B3C6DU;
  x = (x ^ (x >> 12)) * 0x297A2D39U;
  return x ^ (x >> 15);
}

/// For prod: each element has one rank that gives a factor; all other ranks give 1.
int factor_of(const Round& round, std::uint32_t common, std::uint32_t rank) {
  if (common % static_cast<std::uint32_t>(round.ranks) != rank) return 1;
  return round.dtype == DType::bool_ ? static_cast<int>((common >> 8) % 2) : 1 + static_cast<int>((common >> 8) % 5);
}

/// For mean: the mean itself, plus a deviation that the rank's neighbour balances.
int around_mean(const Round& round, std::uint32_t common, std::uint32_t rank, std::uint32_t own_pair) {
  if (round.dtype == DType::bool_) return static_cast<int>(common % 2);
  const int mean = 4 + static_cast<int>(common % 8);
  const bool alone = (rank | 1U) >= static_cast<std::uint32_t>(round.ranks);
  const int deviation = alone ? 0 : static_cast<int>(own_pair % 4);
  return rank % 2 == 0 ? mean + deviation : mean - deviation;
}

int value_of(const Round& round, int rank_number, int part_number, std::uint32_t index) {
  const auto rank = static_cast<std::uint32_t>(rank_number);
  const auto part = static_cast<std::uint32_t>(part_number);
  const std::uint32_t common = mix(index, round.number, part, 1000);
  const std::uint32_t own = mix(index, round.number, part, rank);
  switch (round.redop) {
    case ReduceOp::prod: return factor_of(round, common, rank);
    case ReduceOp::mean: return around_mean(round, common, rank, mix(index, round.number, part, rank / 2));
    case ReduceOp::land: return own % 4 != 0 ? 1 : 0;
    case ReduceOp::lor: return own % 4 == 0 ? 1 : 0;
    default: break;
  }
  if (round.dtype == DType::bool_) return static_cast<int>(own % 2);
  const auto values =
      std::clamp<std::uint32_t>(1 + 100 / static_cast<std::uint32_t>(round.ranks), 2, 8);  // sums stay in int8
  return static_cast<int>(own % values);
}

int combine(ReduceOp op, int left, int right) {
  switch (op) {
    case ReduceOp::sum:
    case ReduceOp::mean: return left + right;
    case ReduceOp::prod: return left * right;
    case ReduceOp::min: return std::min(left, right);
    case ReduceOp::max: return std::max(left, right);
    case ReduceOp::band: return left & right;
    case ReduceOp::bor: return left | right;
    case ReduceOp::bxor: return left ^ right;
    case ReduceOp::land: return (left != 0 && right != 0) ? 1 : 0;
    case ReduceOp::lor: return (left != 0 || right != 0) ? 1 : 0;
  }
  return left;
}

int folded_value(const Round& round, int part, std::uint32_t index) {
  int total = value_of(round, 0, part, index);
  for (int rank = 1; rank < round.ranks; ++rank)
    total = combine(round.redop, total, value_of(round, rank, part, index));
  return round.redop == ReduceOp::mean ? total / round.ranks : total;
}

/// A whole number from 0 to 2048 as IEEE binary16.
std::uint16_t half_of(int value) {
  if (value == 0) return 0;
  const auto magnitude = static_cast<std::uint32_t>(value);
  const auto exponent = static_cast<std::uint32_t>(std::bit_width(magnitude) - 1);
  return static_cast<std::uint16_t>(((exponent + 15) << 10) | (((magnitude << 10) >> exponent) & 0x3ffU));
}

template <class T>
void store(std::byte* target, T value) {
  std::memcpy(target, &value, sizeof value);
}

/// Complex numbers: the imaginary part is `imaginary` or 0, as products of numbers with two parts would not stay small.
void encode(DType dtype, int value, int imaginary, std::byte* target) {
  switch (dtype) {
    case DType::bool_: return store(target, static_cast<std::uint8_t>(value != 0 ? 1 : 0));
    case DType::int8:
    case DType::uint8: return store(target, static_cast<std::uint8_t>(value));
    case DType::int16:
    case DType::uint16: return store(target, static_cast<std::uint16_t>(value));
    case DType::int32:
    case DType::uint32: return store(target, static_cast<std::uint32_t>(value));
    case DType::int64:
    case DType::uint64: return store(target, static_cast<std::uint64_t>(value));
    case DType::float16: return store(target, half_of(value));
    case DType::bfloat16:
      return store(target, static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(value)) >> 16));
    case DType::float32: return store(target, static_cast<float>(value));
    case DType::float64: return store(target, static_cast<double>(value));
    case DType::complex64:
      store(target, static_cast<float>(value));
      return store(target + 4, static_cast<float>(imaginary));
    case DType::complex128:
      store(target, static_cast<double>(value));
      return store(target + 8, static_cast<double>(imaginary));
  }
}

bool is_linear(ReduceOp op) { return op == ReduceOp::sum || op == ReduceOp::mean; }

}  // namespace

std::vector<std::byte> pattern(const Round& round, const Piece& piece, std::uint64_t count) {
  const DType dtype = piece.folded ? result_dtype(round.dtype, round.redop).value_or(round.dtype) : round.dtype;
  const std::size_t element_bytes = size_of(dtype);
  const std::uint64_t elements = std::min(count, pattern_elements);
  std::vector<std::byte> found(elements * element_bytes);
  for (std::uint32_t index = 0; index < elements; ++index) {
    const int value =
        piece.folded ? folded_value(round, piece.part, index) : value_of(round, piece.rank, piece.part, index);
    encode(dtype, value, is_linear(round.redop) ? value : 0, found.data() + index * element_bytes);
  }
  return found;
}

void fill(std::span<std::byte> target, std::span<const std::byte> pattern) {
  while (!target.empty()) {
    const std::size_t bytes = std::min(target.size(), pattern.size());
    std::memcpy(target.data(), pattern.data(), bytes);
    target = target.subspan(bytes);
  }
}

std::uint64_t count_wrong(std::span<const std::byte> found, std::span<const std::byte> pattern,
                          std::size_t element_bytes) {
  std::uint64_t wrong = 0;
  while (!found.empty()) {
    const std::size_t bytes = std::min(found.size(), pattern.size());
    if (std::memcmp(found.data(), pattern.data(), bytes) != 0)
      for (std::size_t at = 0; at < bytes; at += element_bytes)
        if (std::memcmp(found.data() + at, pattern.data() + at, element_bytes) != 0) ++wrong;
    found = found.subspan(bytes);
  }
  return wrong;
}

}  // namespace muster::cli
