// What the tests of the kernels share: the dispatch targets of this CPU, and every valid (dtype, op).
#pragma once

#include <hwy/targets.h>

#include <cstdint>
#include <string>
#include <vector>

#include "muster/types.hpp"

namespace muster::testing {

inline std::vector<std::int64_t> targets() {
  std::vector<std::int64_t> found;
  hwy::SetSupportedTargetsForTest(0);
  for (std::int64_t left = hwy::SupportedTargets() & HWY_TARGETS; left != 0; left &= left - 1)
    found.push_back(left & -left);
  return found;
}

// Runs all kernels that are called meanwhile on one dispatch target.
class OnTarget {
 public:
  explicit OnTarget(std::int64_t target) { hwy::SetSupportedTargetsForTest(target); }
  ~OnTarget() { hwy::SetSupportedTargetsForTest(0); }
  OnTarget(const OnTarget&) = delete;
  OnTarget& operator=(const OnTarget&) = delete;
};

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
