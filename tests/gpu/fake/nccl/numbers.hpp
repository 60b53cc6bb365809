// NCCL's types and reductions, done on the host.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "nccl_api.hpp"

namespace fake_nccl {

using Bytes = std::vector<char>;

std::size_t bytes_of(ncclDataType_t type);

/// Multiplies each element in place; the scalar has the same type.
void multiply(Bytes& values, const Bytes& scalar, ncclDataType_t type);

/// Folds the elements [first, last) of all inputs into `result`: the input `begin` first, then the others around the
/// ring. NCCL promises no order; this one isn't the ranks'.
void fold(std::span<const Bytes> inputs, std::size_t begin, std::size_t first, std::size_t last, ncclDataType_t type,
          ncclRedOp_t op, char* result);

}  // namespace fake_nccl
