// The dispatch targets of this CPU, for tests of the kernels.
#pragma once

#include <hwy/targets.h>

#include <cstdint>
#include <vector>

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

}  // namespace muster::testing
