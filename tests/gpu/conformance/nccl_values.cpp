#include "nccl_values.hpp"

#include <cmath>
#include <cstring>
#include <map>
#include <stdexcept>

namespace conformance {
namespace {

constexpr Format all[] = {
    {ncclInt8, "int8", 1, true, true, 0, 0},
    {ncclUint8, "uint8", 1, true, false, 0, 0},
    {ncclInt32, "int32", 4, true, true, 0, 0},
    {ncclUint32, "uint32", 4, true, false, 0, 0},
    {ncclInt64, "int64", 8, true, true, 0, 0},
    {ncclUint64, "uint64", 8, true, false, 0, 0},
    {ncclFloat16, "float16", 2, false, true, 5, 10},
    {ncclFloat32, "float32", 4, false, true, 8, 23},
    {ncclFloat64, "float64", 8, false, true, 11, 52},
    {ncclBfloat16, "bfloat16", 2, false, true, 8, 7},
    {static_cast<ncclDataType_t>(10), "float8e4m3", 1, false, true, 4, 3},
    {static_cast<ncclDataType_t>(11), "float8e5m2", 1, false, true, 5, 2},
};

/// Sign, exponent and mantissa of a number that is neither infinite nor none.
double value_of(const Format& format, std::uint64_t word) {
  const int mantissa = format.mantissa_bits, bias = (1 << (format.exponent_bits - 1)) - 1;
  const auto fraction = static_cast<double>(word & ((std::uint64_t{1} << mantissa) - 1));
  const auto exponent = static_cast<int>((word >> mantissa) & ((1U << format.exponent_bits) - 1));
  const bool negative = ((word >> (mantissa + format.exponent_bits)) & 1) != 0;
  const double one = exponent == 0 ? 0 : 1;
  const double magnitude = std::ldexp(one + std::ldexp(fraction, -mantissa), (exponent == 0 ? 1 : exponent) - bias);
  return negative ? -magnitude : magnitude;
}

double integer_of(const Format& format, std::uint64_t word) {
  const auto unused = static_cast<int>(64 - 8 * format.bytes);
  if (!format.is_signed) return static_cast<double>(word);
  return static_cast<double>(static_cast<std::int64_t>(word << unused) >> unused);
}

double decode_word(const Format& format, std::uint64_t word) {
  return format.integral ? integer_of(format, word) : value_of(format, word);
}

/// All values of a small format, or a conversion by the compiler.
std::uint64_t word_of(const Format& format, double value) {
  if (format.integral) return static_cast<std::uint64_t>(static_cast<std::int64_t>(value));
  std::uint64_t word = 0;
  if (format.bytes == 8) {
    std::memcpy(&word, &value, 8);
  } else if (format.bytes == 4) {
    const auto single = static_cast<float>(value);
    std::memcpy(&word, &single, 4);
  } else {
    thread_local std::map<int, std::map<double, std::uint64_t>> tables;
    auto& table = tables[format.type];
    if (table.empty())
      for (std::uint64_t candidate = 0; candidate < std::uint64_t{1} << (8 * format.bytes); ++candidate)
        table.emplace(value_of(format, candidate), candidate);
    const auto found = table.find(value);
    if (found == table.end()) throw std::logic_error(std::string(format.name) + " doesn't have a value of the test");
    word = found->second;
  }
  return word;
}

}  // namespace

double Format::epsilon() const { return integral ? 0 : std::ldexp(1, -mantissa_bits); }

std::vector<Format> formats_of(int version) {
  std::vector<Format> formats(std::begin(all), std::end(all));
  if (version < 22400) formats.resize(10);
  return formats;
}

Words encode(const Format& format, const std::vector<double>& values) {
  Words words(values.size() * format.bytes);
  for (std::size_t index = 0; index < values.size(); ++index) {
    const auto word = word_of(format, values[index]);
    std::memcpy(words.data() + index * format.bytes, &word, format.bytes);
  }
  return words;
}

std::vector<double> decode(const Format& format, const Words& words) {
  std::vector<double> values(words.size() / format.bytes);
  for (std::size_t index = 0; index < values.size(); ++index) {
    std::uint64_t word = 0;
    std::memcpy(&word, words.data() + index * format.bytes, format.bytes);
    values[index] = decode_word(format, word);
  }
  return values;
}

}  // namespace conformance
