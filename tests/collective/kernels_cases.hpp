// Every valid (dtype, op), for tests of kernels, on the host and on GPUs.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "muster/types.hpp"

namespace muster::testing {

struct Case {
  DType dtype;
  ReduceOp op;
};

inline std::vector<Case> cases() {
  std::vector<Case> all;
  for (std::size_t dtype = 0; dtype < muster::dtype_count; ++dtype) {
    for (std::size_t op = 0; op < muster::reduce_op_count; ++op) {
      const Case one{static_cast<DType>(dtype), static_cast<ReduceOp>(op)};
      if (muster::result_dtype(one.dtype, one.op)) all.push_back(one);
    }
  }
  return all;
}

inline std::size_t output_size(Case which) {
  return muster::size_of(muster::result_dtype(which.dtype, which.op).value());
}

inline std::string describe(Case which) {
  return std::string(muster::name(which.op)) + " of " + std::string(muster::name(which.dtype));
}

}  // namespace muster::testing
