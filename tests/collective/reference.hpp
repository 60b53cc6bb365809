// Arrays of small whole numbers, and the results of collectives over them, computed value by value in double. It is
// slow and obvious, and shares only the definition of the half types with the code under test.
#pragma once

#include <complex>
#include <cstdint>
#include <span>
#include <vector>

#include <muster/types.hpp>

#include "inputs.hpp"

namespace musterd::testing {

struct Tensor {
  muster::DType dtype = muster::DType::float32;
  std::vector<std::int64_t> shape;
  std::vector<std::complex<double>> values;
  bool operator==(const Tensor&) const = default;
};

[[nodiscard]] std::size_t count_of(std::span<const std::int64_t> shape);
[[nodiscard]] Array encode(const Tensor& tensor);
[[nodiscard]] Tensor decode(muster::DType dtype, std::span<const std::int64_t> shape, const std::byte* data);

/// Reduces arrays of equal shapes, in this order.
[[nodiscard]] Tensor fold(muster::ReduceOp op, std::span<const Tensor> inputs);
/// Stacks them along a new axis 0.
[[nodiscard]] Tensor stack(std::span<const Tensor> inputs);
/// Joins them along axis 0.
[[nodiscard]] Tensor join(std::span<const Tensor> inputs);

}  // namespace musterd::testing
