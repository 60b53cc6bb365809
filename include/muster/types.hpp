// The types that every part of Muster shares: dtypes, reduce ops, loss policies. Their numeric values travel on the
// wire and in pickled refs; append, never renumber.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace muster {

enum class DType : std::uint8_t {
  bool_ = 0,
  int8 = 1,
  int16 = 2,
  int32 = 3,
  int64 = 4,
  uint8 = 5,
  uint16 = 6,
  uint32 = 7,
  uint64 = 8,
  float16 = 9,
  bfloat16 = 10,
  float32 = 11,
  float64 = 12,
  complex64 = 13,
  complex128 = 14,
};
inline constexpr std::size_t dtype_count = 15;

enum class ReduceOp : std::uint8_t {
  sum = 0,
  prod = 1,
  min = 2,
  max = 3,
  mean = 4,
  band = 5,
  bor = 6,
  bxor = 7,
  land = 8,
  lor = 9,
};
inline constexpr std::size_t reduce_op_count = 10;

/// What a group does when the holder of a seat is lost.
enum class OnLoss : std::uint8_t {
  fail = 0,    ///< refuse new ops until every live seat has called reform()
  shrink = 1,  ///< go on with the live seats
  wait = 2,    ///< a replacement may take the seat until the op's deadline
};

/// Bytes of one element.
[[nodiscard]] constexpr std::size_t size_of(DType dtype) {
  constexpr std::array<std::size_t, dtype_count> sizes{1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 2, 4, 8, 8, 16};
  return sizes[static_cast<std::size_t>(dtype)];
}

/// NumPy's name of the dtype, "bool" and "bfloat16" included.
[[nodiscard]] constexpr std::string_view name(DType dtype) {
  constexpr std::array<std::string_view, dtype_count> names{
      "bool",   "int8",    "int16",    "int32",   "int64",   "uint8",     "uint16",    "uint32",
      "uint64", "float16", "bfloat16", "float32", "float64", "complex64", "complex128"};
  return names[static_cast<std::size_t>(dtype)];
}

[[nodiscard]] constexpr std::string_view name(ReduceOp op) {
  constexpr std::array<std::string_view, reduce_op_count> names{"sum",  "prod", "min",  "max",  "mean",
                                                                "band", "bor",  "bxor", "land", "lor"};
  return names[static_cast<std::size_t>(op)];
}

[[nodiscard]] constexpr std::string_view name(OnLoss policy) {
  constexpr std::array<std::string_view, 3> names{"fail", "shrink", "wait"};
  return names[static_cast<std::size_t>(policy)];
}

[[nodiscard]] constexpr bool is_integer(DType dtype) { return dtype >= DType::int8 && dtype <= DType::uint64; }
[[nodiscard]] constexpr bool is_complex(DType dtype) { return dtype >= DType::complex64; }

/// The dtype of `op` applied to arrays of `dtype`, as NumPy's ufunc.reduce over the ranks would give it: mean of
/// integers and bool is float64, sum and prod of bool are int64, land and lor are bool. Nothing if the op has no
/// meaning for the dtype: bitwise ops on floats and complex, min and max on complex.
[[nodiscard]] constexpr std::optional<DType> result_dtype(DType dtype, ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
    case ReduceOp::prod: return dtype == DType::bool_ ? DType::int64 : dtype;
    case ReduceOp::min:
    case ReduceOp::max: return is_complex(dtype) ? std::nullopt : std::optional(dtype);
    case ReduceOp::mean: return dtype == DType::bool_ || is_integer(dtype) ? DType::float64 : dtype;
    case ReduceOp::band:
    case ReduceOp::bor:
    case ReduceOp::bxor: return dtype == DType::bool_ || is_integer(dtype) ? std::optional(dtype) : std::nullopt;
    case ReduceOp::land:
    case ReduceOp::lor: return DType::bool_;
  }
  return std::nullopt;
}

}  // namespace muster
