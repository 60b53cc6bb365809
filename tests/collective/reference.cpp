#include "reference.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include "collective/kernels/half.hpp"

namespace musterd::testing {

using muster::DType;
using muster::ReduceOp;
using Value = std::complex<double>;

namespace {

/// Calls `visit` with a zero of the C++ type of one element.
template <class Visit>
auto with_type(DType dtype, Visit visit) {
  switch (dtype) {
    case DType::bool_: return visit(std::uint8_t{});
    case DType::int8: return visit(std::int8_t{});
    case DType::int16: return visit(std::int16_t{});
    case DType::int32: return visit(std::int32_t{});
    case DType::int64: return visit(std::int64_t{});
    case DType::uint8: return visit(std::uint8_t{});
    case DType::uint16: return visit(std::uint16_t{});
    case DType::uint32: return visit(std::uint32_t{});
    case DType::uint64: return visit(std::uint64_t{});
    case DType::float16: return visit(kernels::Float16{});
    case DType::bfloat16: return visit(kernels::Bfloat16{});
    case DType::float32: return visit(float{});
    case DType::float64: return visit(double{});
    case DType::complex64: return visit(std::complex<float>{});
    case DType::complex128: return visit(std::complex<double>{});
  }
  throw std::logic_error("no such dtype");
}

void assign(kernels::Float16& element, Value value) { element = kernels::to_float16(static_cast<float>(value.real())); }
void assign(kernels::Bfloat16& element, Value value) {
  element = kernels::to_bfloat16(static_cast<float>(value.real()));
}
void assign(std::complex<float>& element, Value value) { element = std::complex<float>(value); }
void assign(std::complex<double>& element, Value value) { element = value; }
void assign(float& element, Value value) { element = static_cast<float>(value.real()); }
void assign(double& element, Value value) { element = value.real(); }
template <class Integer>
void assign(Integer& element, Value value) {
  element = static_cast<Integer>(static_cast<std::int64_t>(value.real()));  // wraps around
}

Value value_of(kernels::Float16 element) { return double{kernels::to_float(element)}; }
Value value_of(kernels::Bfloat16 element) { return double{kernels::to_float(element)}; }
Value value_of(std::complex<float> element) { return Value(element); }
Value value_of(std::complex<double> element) { return element; }
template <class Number>
Value value_of(Number element) {
  return static_cast<double>(element);
}

/// Rounds the value to what the dtype can hold.
Value rounded(DType dtype, Value value) {
  return with_type(dtype, [&](auto element) {
    assign(element, value);
    return value_of(element);
  });
}

std::int64_t bits_of(Value value) { return static_cast<std::int64_t>(value.real()); }

Value apply(ReduceOp op, Value a, Value b) {
  switch (op) {
    case ReduceOp::sum:
    case ReduceOp::mean: return a + b;
    case ReduceOp::prod: return a * b;
    case ReduceOp::min: return std::min(a.real(), b.real());
    case ReduceOp::max: return std::max(a.real(), b.real());
    case ReduceOp::band: return static_cast<double>(bits_of(a) & bits_of(b));
    case ReduceOp::bor: return static_cast<double>(bits_of(a) | bits_of(b));
    case ReduceOp::bxor: return static_cast<double>(bits_of(a) ^ bits_of(b));
    case ReduceOp::land: return a != Value{} && b != Value{} ? 1 : 0;
    case ReduceOp::lor: return a != Value{} || b != Value{} ? 1 : 0;
  }
  throw std::logic_error("no such op");
}

/// Divides whole numbers in the precision that the dtype uses for division.
Value divided(DType dtype, Value value, std::size_t by) {
  const bool wide = dtype == DType::float64 || dtype == DType::complex128;
  const auto part = [&](double x) {
    if (wide) return x / static_cast<double>(by);
    return double{static_cast<float>(x) / static_cast<float>(by)};
  };
  return {part(value.real()), part(value.imag())};
}

}  // namespace

std::size_t count_of(std::span<const std::int64_t> shape) {
  return static_cast<std::size_t>(std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
}

Array encode(const Tensor& tensor) {
  Array array{tensor.dtype, tensor.shape, std::vector<std::byte>(tensor.values.size() * size_of(tensor.dtype))};
  std::byte* next = array.bytes.data();
  for (const Value& value : tensor.values)
    with_type(tensor.dtype, [&](auto element) {
      assign(element, value);
      std::memcpy(next, &element, sizeof element);
      next += sizeof element;
    });
  return array;
}

Tensor decode(DType dtype, std::span<const std::int64_t> shape, const std::byte* data) {
  Tensor tensor{dtype, {shape.begin(), shape.end()}, {}};
  for (std::size_t i = 0; i < count_of(shape); ++i)
    tensor.values.push_back(with_type(dtype, [&](auto element) {
      std::memcpy(&element, data + i * sizeof element, sizeof element);
      return value_of(element);
    }));
  return tensor;
}

Tensor fold(ReduceOp op, std::span<const Tensor> inputs) {
  Tensor result = inputs.front();
  result.dtype = *muster::result_dtype(inputs.front().dtype, op);
  for (std::size_t i = 0; i < result.values.size(); ++i) {
    Value value = inputs.front().values[i];
    if (inputs.size() == 1 && (op == ReduceOp::land || op == ReduceOp::lor)) value = apply(op, value, value);
    for (const Tensor& input : inputs.subspan(1)) value = apply(op, value, input.values[i]);
    if (op == ReduceOp::mean) value = divided(result.dtype, value, inputs.size());
    result.values[i] = rounded(result.dtype, value);
  }
  return result;
}

Tensor stack(std::span<const Tensor> inputs) {
  Tensor result{inputs.front().dtype, inputs.front().shape, {}};
  result.shape.insert(result.shape.begin(), static_cast<std::int64_t>(inputs.size()));
  for (const Tensor& input : inputs)
    result.values.insert(result.values.end(), input.values.begin(), input.values.end());
  return result;
}

Tensor join(std::span<const Tensor> inputs) {
  Tensor result{inputs.front().dtype, inputs.front().shape, {}};
  result.shape[0] = 0;
  for (const Tensor& input : inputs) {
    result.shape[0] += input.shape[0];
    result.values.insert(result.values.end(), input.values.begin(), input.values.end());
  }
  return result;
}

}  // namespace musterd::testing
