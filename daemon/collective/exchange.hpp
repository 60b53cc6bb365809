// Which reductions can be exchanged between GPUs: those that NCCL has, in the types that it has.
#pragma once

#include <cstdint>
#include <optional>

#include <muster/types.hpp>

namespace musterd {

/// How what GPUs have folded is reduced further.
struct Exchanged {
  muster::DType dtype;  ///< int8 to uint64 without those of 16 bits, or a real floating-point one
  muster::ReduceOp op;  ///< sum, prod, min or max
  std::uint64_t each;   ///< so many elements of it are one element of the result
  bool takes_inputs;    ///< an input may take part as it is, without a fold
};

/// How results of a reduction of arrays of `dtype` are exchanged. Nothing if NCCL has no such type or op.
[[nodiscard]] std::optional<Exchanged> exchanged_as(muster::DType dtype, muster::ReduceOp op);

}  // namespace musterd
