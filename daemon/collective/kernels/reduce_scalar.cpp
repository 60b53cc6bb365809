// The reference: every dtype and op as the plain left fold that README.md defines. It is written to be read, and other
// kernels are compared with it bit by bit. It also serves CPUs without SIMD.
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>

#include "half.hpp"
#include "reduce.hpp"

namespace musterd::kernels {
namespace {

using muster::DType;
using muster::ReduceOp;

struct Bool {
  std::uint8_t byte;
};
// Not std::complex, as its product repairs NaNs. NumPy uses the naive formula.
template <std::floating_point T>
struct Complex {
  T re, im;
};

// What an input element is while it is being folded: itself, but float32 for half types and 0 or 1 for bool.
template <std::integral T>
T widen(T value) {
  return value;
}
template <std::floating_point T>
T widen(T value) {
  return value;
}
template <class T>
Complex<T> widen(Complex<T> value) {
  return value;
}
float widen(Float16 value) { return to_float(value); }
float widen(Bfloat16 value) { return to_float(value); }
std::uint8_t widen(Bool value) { return value.byte != 0 ? 1 : 0; }

// The way back: to the output's type, rounded once, every NaN the same quiet one.
template <class Out, std::integral T>
Out narrow(T value) {
  if constexpr (std::is_same_v<Out, Bool>) {
    return {static_cast<std::uint8_t>(value != 0 ? 1 : 0)};
  } else {
    return static_cast<Out>(value);
  }
}
template <class Out, std::floating_point T>
Out narrow(T value) {
  if constexpr (std::is_same_v<Out, Float16>) {
    return to_float16(value);
  } else if constexpr (std::is_same_v<Out, Bfloat16>) {
    return to_bfloat16(value);
  } else {
    return std::isnan(value) ? std::numeric_limits<Out>::quiet_NaN() : value;
  }
}
template <class Out, class T>
Out narrow(Complex<T> value) {
  return {narrow<T>(value.re), narrow<T>(value.im)};
}

template <std::integral T>
T add(T a, T b) {  // in 64 unsigned bits, so that it wraps and is never promoted to a signed type
  return static_cast<T>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
}
template <std::floating_point T>
T add(T a, T b) {
  return a + b;
}
template <class T>
Complex<T> add(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}

template <std::integral T>
T multiply(T a, T b) {
  return static_cast<T>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
}
template <std::floating_point T>
T multiply(T a, T b) {
  return a * b;
}
template <class T>
Complex<T> multiply(Complex<T> a, Complex<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

template <std::floating_point T>
T divide(T value, std::size_t by) {
  return value / static_cast<T>(by);
}
template <class T>
Complex<T> divide(Complex<T> value, std::size_t by) {
  return {divide(value.re, by), divide(value.im, by)};
}

// NaN wins. If -0 meets +0, which compare equal, the later rank's wins.
template <std::integral T>
T smaller(T a, T b) {
  return a < b ? a : b;
}
template <std::floating_point T>
T smaller(T a, T b) {
  return a < b || std::isnan(a) ? a : b;
}
template <std::integral T>
T larger(T a, T b) {
  return a > b ? a : b;
}
template <std::floating_point T>
T larger(T a, T b) {
  return a > b || std::isnan(a) ? a : b;
}

template <class T>
std::uint8_t truth(T value) {  // NaN is not zero, hence true
  return value != T{0} ? 1 : 0;
}
template <class T>
std::uint8_t truth(Complex<T> value) {
  return value.re != T{0} || value.im != T{0} ? 1 : 0;
}

template <class T>
T read(const std::byte* from, std::size_t index) {
  T value;
  std::memcpy(&value, from + index * sizeof(T), sizeof(T));
  return value;
}

template <class In, class Out, class Prepare, class Combine, class Finish>
void fold(const Reduce& call, Prepare prepare, Combine combine, Finish finish) {
  const auto write = [&](std::byte* output, std::size_t i, auto folded, std::size_t ranks) {
    if (output == nullptr) return;
    const Out out = narrow<Out>(finish(folded, ranks));
    std::memcpy(output + i * sizeof(Out), &out, sizeof(Out));
  };
  const bool scans = !call.prefixes.empty();
  for (std::size_t i = 0; i < call.count; ++i) {
    auto folded = prepare(widen(read<In>(call.inputs[0], i)));
    if (scans) write(call.prefixes[0], i, folded, 1);
    for (std::size_t rank = 1; rank < call.inputs.size(); ++rank) {
      folded = combine(folded, prepare(widen(read<In>(call.inputs[rank], i))));
      if (scans) write(call.prefixes[rank], i, folded, rank + 1);
    }
    if (!scans) write(call.output, i, folded, call.inputs.size());
  }
}

constexpr auto as_it_is = [](auto value) { return value; };
constexpr auto whole = [](auto folded, std::size_t) { return folded; };
constexpr auto averaged = [](auto sum, std::size_t ranks) { return divide(sum, ranks); };
constexpr auto plus = [](auto a, auto b) { return add(a, b); };
constexpr auto times = [](auto a, auto b) { return multiply(a, b); };
constexpr auto both = [](auto a, auto b) { return static_cast<decltype(a)>(a & b); };
constexpr auto either = [](auto a, auto b) { return static_cast<decltype(a)>(a | b); };
constexpr auto one_of = [](auto a, auto b) { return static_cast<decltype(a)>(a ^ b); };

// Ops that the result_dtype() table has for every dtype.
template <class T>
void reduce_any(const Reduce& call) {
  const auto is_true = [](auto value) { return truth(value); };
  switch (call.op) {
    case ReduceOp::sum: return fold<T, T>(call, as_it_is, plus, whole);
    case ReduceOp::prod: return fold<T, T>(call, as_it_is, times, whole);
    case ReduceOp::mean: return fold<T, T>(call, as_it_is, plus, averaged);
    case ReduceOp::land: return fold<T, Bool>(call, is_true, both, whole);
    case ReduceOp::lor: return fold<T, Bool>(call, is_true, either, whole);
    default: std::abort();
  }
}

template <class T>
void reduce_ordered(const Reduce& call) {
  switch (call.op) {
    case ReduceOp::min:
      return fold<T, T>(
          call, as_it_is, [](auto a, auto b) { return smaller(a, b); }, whole);
    case ReduceOp::max:
      return fold<T, T>(
          call, as_it_is, [](auto a, auto b) { return larger(a, b); }, whole);
    default: return reduce_any<T>(call);
  }
}

// Integers and bool: `Sum` is the type of their sums and products.
template <class T, class Sum>
void reduce_discrete(const Reduce& call) {
  const auto to_sum = [](auto value) { return static_cast<Sum>(value); };
  const auto to_double = [](auto value) { return static_cast<double>(value); };
  const auto is_true = [](auto value) { return truth(value); };
  switch (call.op) {
    case ReduceOp::sum: return fold<T, Sum>(call, to_sum, plus, whole);
    case ReduceOp::prod: return fold<T, Sum>(call, to_sum, times, whole);
    case ReduceOp::mean: return fold<T, double>(call, to_double, plus, averaged);
    case ReduceOp::min:
      return fold<T, T>(
          call, as_it_is, [](auto a, auto b) { return smaller(a, b); }, whole);
    case ReduceOp::max:
      return fold<T, T>(
          call, as_it_is, [](auto a, auto b) { return larger(a, b); }, whole);
    case ReduceOp::band: return fold<T, T>(call, as_it_is, both, whole);
    case ReduceOp::bor: return fold<T, T>(call, as_it_is, either, whole);
    case ReduceOp::bxor: return fold<T, T>(call, as_it_is, one_of, whole);
    case ReduceOp::land: return fold<T, Bool>(call, is_true, both, whole);
    case ReduceOp::lor: return fold<T, Bool>(call, is_true, either, whole);
  }
}

}  // namespace

void reduce_scalar(const Reduce& call) {
  if (call.inputs.empty() || !muster::result_dtype(call.dtype, call.op)) std::abort();
  switch (call.dtype) {
    case DType::bool_: return reduce_discrete<Bool, std::int64_t>(call);
    case DType::int8: return reduce_discrete<std::int8_t, std::int8_t>(call);
    case DType::int16: return reduce_discrete<std::int16_t, std::int16_t>(call);
    case DType::int32: return reduce_discrete<std::int32_t, std::int32_t>(call);
    case DType::int64: return reduce_discrete<std::int64_t, std::int64_t>(call);
    case DType::uint8: return reduce_discrete<std::uint8_t, std::uint8_t>(call);
    case DType::uint16: return reduce_discrete<std::uint16_t, std::uint16_t>(call);
    case DType::uint32: return reduce_discrete<std::uint32_t, std::uint32_t>(call);
    case DType::uint64: return reduce_discrete<std::uint64_t, std::uint64_t>(call);
    case DType::float16: return reduce_ordered<Float16>(call);
    case DType::bfloat16: return reduce_ordered<Bfloat16>(call);
    case DType::float32: return reduce_ordered<float>(call);
    case DType::float64: return reduce_ordered<double>(call);
    case DType::complex64: return reduce_any<Complex<float>>(call);
    case DType::complex128: return reduce_any<Complex<double>>(call);
  }
}

}  // namespace musterd::kernels
