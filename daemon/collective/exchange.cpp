#include "collective/exchange.hpp"

namespace musterd {

using muster::DType;
using muster::ReduceOp;

namespace {

/// The op over folds. Those that NCCL has no op for stay as they are.
ReduceOp op_over_folds(DType result, ReduceOp op) {
  if (op == ReduceOp::mean) return ReduceOp::sum;
  if (result != DType::bool_) return op;
  // Folds to bool are 0 or 1.
  if (op == ReduceOp::land || op == ReduceOp::band) return ReduceOp::min;
  if (op == ReduceOp::lor || op == ReduceOp::bor) return ReduceOp::max;
  return op;
}

bool is_known(ReduceOp op) {
  return op == ReduceOp::sum || op == ReduceOp::prod || op == ReduceOp::min || op == ReduceOp::max;
}

bool is_known(DType dtype) { return dtype != DType::int16 && dtype != DType::uint16; }

}  // namespace

std::optional<Exchanged> exchanged_as(DType dtype, ReduceOp op) {
  const auto result = muster::result_dtype(dtype, op);
  if (!result) return std::nullopt;
  const ReduceOp over_folds = op_over_folds(*result, op);
  if (!is_known(*result) || !is_known(over_folds)) return std::nullopt;
  Exchanged exchanged{*result, over_folds, 1, *result == dtype && dtype != DType::bool_};
  if (*result == DType::bool_) exchanged.dtype = DType::uint8;
  if (muster::is_complex(*result)) {
    if (over_folds != ReduceOp::sum) return std::nullopt;
    exchanged.dtype = *result == DType::complex64 ? DType::float32 : DType::float64;
    exchanged.each = 2;
  }
  return exchanged;
}

}  // namespace musterd
