#include "numbers.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "failure.hpp"

namespace fake_nccl {
namespace {

/// A floating type of at most 16 bits. `Finite` has no infinities: its highest exponent has numbers, and overflow ends
/// at the largest.
template <class Word, int Exponent, int Mantissa, bool Finite>
class Small {
 public:
  Small() = default;
  explicit Small(float value) : word_(encode(value)) {}
  explicit operator float() const { return decode(word_); }

 private:
  static constexpr int bias = (1 << (Exponent - 1)) - 1;
  static constexpr unsigned mantissa_mask = (1U << Mantissa) - 1;
  static constexpr unsigned exponent_mask = (1U << Exponent) - 1;
  static constexpr unsigned sign = 1U << (Exponent + Mantissa);
  static constexpr unsigned infinity = exponent_mask << Mantissa;
  static constexpr unsigned nan = Finite ? infinity | mantissa_mask : infinity | (1U << (Mantissa - 1));

  static float decode(unsigned word) {
    const unsigned exponent = (word >> Mantissa) & exponent_mask, mantissa = word & mantissa_mask;
    const float scale = (word & sign) != 0 ? -1.0F : 1.0F;
    if (Finite && (word & ~sign) == nan) return std::numeric_limits<float>::quiet_NaN();
    if (!Finite && exponent == exponent_mask)
      return mantissa != 0 ? std::numeric_limits<float>::quiet_NaN() : scale * std::numeric_limits<float>::infinity();
    const auto whole = static_cast<float>(exponent == 0 ? mantissa : mantissa | (1U << Mantissa));
    return scale * std::ldexp(whole, static_cast<int>(exponent == 0 ? 1 : exponent) - bias - Mantissa);
  }

  static Word encode(float value) {
    const unsigned negative = std::signbit(value) ? sign : 0;
    if (std::isnan(value)) return static_cast<Word>(nan);
    const float magnitude = std::fabs(value);
    int exponent = 0;
    std::frexp(magnitude, &exponent);
    // Numbers below the smallest normal one have its exponent.
    const int place = std::max(exponent - 1, 1 - bias) - Mantissa;
    // nearbyint rounds to even. A carry moves into the exponent by itself.
    const float whole = std::isinf(magnitude) ? 0 : std::nearbyint(std::ldexp(magnitude, -place));
    const auto biased = static_cast<unsigned>(place + Mantissa + bias);
    const auto mantissa = static_cast<unsigned>(whole);
    const unsigned word = mantissa < (1U << Mantissa) ? mantissa : (biased << Mantissa) + mantissa - (1U << Mantissa);
    if (Finite) return static_cast<Word>(negative | (std::isinf(magnitude) || word >= nan ? nan - 1 : word));
    return static_cast<Word>(negative | (std::isinf(magnitude) || word >= infinity ? infinity : word));
  }

  Word word_ = 0;
};

using Half = Small<std::uint16_t, 5, 10, false>;
using Bfloat = Small<std::uint16_t, 8, 7, false>;
using E4m3 = Small<std::uint8_t, 4, 3, true>;
using E5m2 = Small<std::uint8_t, 5, 2, false>;

template <class F>
auto with_type(ncclDataType_t type, const F& function) {
  switch (type) {
    case ncclInt8: return function(std::int8_t{});
    case ncclUint8: return function(std::uint8_t{});
    case ncclInt32: return function(std::int32_t{});
    case ncclUint32: return function(std::uint32_t{});
    case ncclInt64: return function(std::int64_t{});
    case ncclUint64: return function(std::uint64_t{});
    case ncclFloat16: return function(Half{});
    case ncclFloat32: return function(float{});
    case ncclFloat64: return function(double{});
    case ncclBfloat16: return function(Bfloat{});
    default: break;
  }
  if (static_cast<int>(type) == 10) return function(E4m3{});
  if (static_cast<int>(type) == 11) return function(E5m2{});
  throw Failure{ncclInvalidArgument, "invalid type " + std::to_string(type)};
}

/// What the arithmetic of a type is done in: integers wrap, small floats are rounded after each step.
template <class T>
auto wide(T value) {
  if constexpr (std::is_integral_v<T>) return static_cast<std::make_unsigned_t<T>>(value);
  else if constexpr (std::is_same_v<T, double>) return value;
  else return static_cast<float>(value);
}

template <class T>
auto ordered(T value) {
  if constexpr (std::is_integral_v<T>) return value;
  else return wide(value);
}

template <class T>
T times(T a, T b) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(static_cast<std::uint64_t>(wide(a)) * static_cast<std::uint64_t>(wide(b)));
  else return T(wide(a) * wide(b));
}

template <class T>
T step(T a, T b, ncclRedOp_t op) {
  switch (op) {
    case ncclProd: return times(a, b);
    case ncclMax: return ordered(a) < ordered(b) ? b : a;
    case ncclMin: return ordered(b) < ordered(a) ? b : a;
    default: return T(wide(a) + wide(b));
  }
}

template <class T>
T at(const Bytes& bytes, std::size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

/// ncclAvg multiplies floating inputs by 1/n before the sum, and divides sums of integers.
template <class T>
T fold_one(std::span<const Bytes> inputs, std::size_t begin, std::size_t index, ncclRedOp_t op) {
  const auto number = inputs.size();
  const auto input = [&](std::size_t offset) {
    T value = at<T>(inputs[(begin + offset) % number], index);
    if constexpr (!std::is_integral_v<T>) {
      if (op == ncclAvg)
        value = T(wide(value) *
                  wide(T(static_cast<decltype(wide(value))>(1) / static_cast<decltype(wide(value))>(number))));
    }
    return value;
  };
  T result = input(0);
  for (std::size_t offset = 1; offset < number; ++offset) result = step(result, input(offset), op);
  if constexpr (std::is_integral_v<T>) {
    if (op == ncclAvg) {
      using Divisor = std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>;
      result = static_cast<T>(static_cast<Divisor>(result) / static_cast<Divisor>(number));
    }
  }
  return result;
}

}  // namespace

std::size_t bytes_of(ncclDataType_t type) {
  return with_type(type, [](auto one) { return sizeof(one); });
}

void multiply(Bytes& values, const Bytes& scalar, ncclDataType_t type) {
  with_type(type, [&](auto one) {
    using T = decltype(one);
    const T factor = at<T>(scalar, 0);
    for (std::size_t index = 0; index < values.size() / sizeof(T); ++index) {
      const T product = times(at<T>(values, index), factor);
      std::memcpy(values.data() + index * sizeof(T), &product, sizeof(T));
    }
  });
}

void fold(std::span<const Bytes> inputs, std::size_t begin, std::size_t first, std::size_t last, ncclDataType_t type,
          ncclRedOp_t op, char* result) {
  with_type(type, [&](auto one) {
    using T = decltype(one);
    for (std::size_t index = first; index < last; ++index) {
      const T value = fold_one<T>(inputs, begin, index, op);
      std::memcpy(result + (index - first) * sizeof(T), &value, sizeof(T));
    }
  });
}

}  // namespace fake_nccl
