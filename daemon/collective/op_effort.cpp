#include "collective/op_effort.hpp"

#include <algorithm>

namespace musterd {

std::size_t effort_of(const Contribution& contribution) {
  constexpr std::size_t inputs_each = 16;
  constexpr std::size_t arrays_each = 8;
  std::size_t effort = 1 + contribution.inputs.size() / inputs_each;
  std::size_t arrays = 0;
  for (const Input& input : contribution.inputs) {
    arrays += input.manifest->leaves.size();
    if (arrays / arrays_each >= op_effort_max) break;
  }
  effort += arrays / arrays_each;
  return std::min(effort, op_effort_max);
}

std::size_t effort_of(const Op& op) {
  std::size_t effort = 1;
  for (const Contribution& contribution : op.contributions) {
    effort += effort_of(contribution);
    if (effort >= op_effort_max) return op_effort_max;
  }
  return effort;
}

}  // namespace musterd
