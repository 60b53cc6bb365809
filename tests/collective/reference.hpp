// Arrays of small whole numbers and what the collectives make of them, worked out value by value in double:
// slow, obvious, and sharing nothing with the code under test but the definition of the half types.
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

/// The reduction of equal shapes, in this order.
[[nodiscard]] Tensor fold(muster::ReduceOp op, std::span<const Tensor> inputs);
/// A new axis 0.
[[nodiscard]] Tensor stack(std::span<const Tensor> inputs);
/// Along axis 0.
[[nodiscard]] Tensor join(std::span<const Tensor> inputs);

}  // namespace musterd::testing
