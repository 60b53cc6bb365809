// An op that this process has started, as Python sees it.
#pragma once

#include <vector>

#include "module.hpp"
#include "objects.hpp"

namespace muster::python {

struct PyWork {
  Work work;
  bool as_list = false;  ///< the rank gets one object from each rank
};

inline OpOptions options_from(nb::handle timeout) { return {deadline_from(timeout), {}}; }
inline ReduceOp op_from(int number) { return static_cast<ReduceOp>(number); }

inline std::vector<Ref> refs_from(const std::vector<PyRef>& inputs) {
  std::vector<Ref> refs;
  refs.reserve(inputs.size());
  for (const auto& input : inputs) refs.push_back(input.ref);
  return refs;
}

}  // namespace muster::python
