#include "session/running_op.hpp"

#include <algorithm>
#include <new>

#include "base/heap_reserve.hpp"

namespace musterd {

TimePoint deadline_of(const Op& op) {
  return std::ranges::min_element(op.contributions, {}, &Contribution::deadline)->deadline;
}

Sharing sharing_of(const RunningOp& running) {
  return running.group && running.group->group.settings().open ? Sharing::copy : Sharing::alias;
}

Takers takers_of(const RunningOp& running) { return running.group ? Takers::ranks : Takers::one; }

muster::Result<Plan> plan_of(const RunningOp& running) try {
  return make_plan(*running.op, sharing_of(running), takers_of(running));
} catch (const std::bad_alloc&) {
  return no_heap();
}

}  // namespace musterd
