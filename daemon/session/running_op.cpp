#include "session/running_op.hpp"

#include <algorithm>
#include <new>

#include "base/heap_reserve.hpp"
#include "memory/segment_table.hpp"

namespace musterd {

TimePoint deadline_of(const Op& op) {
  return std::ranges::min_element(op.contributions, {}, &Contribution::deadline)->deadline;
}

Sharing sharing_of(const RunningOp& running) {
  return running.group && running.group->group.settings().open ? Sharing::copy : Sharing::alias;
}

Takers takers_of(const RunningOp& running) { return running.group ? Takers::ranks : Takers::one; }

namespace {

bool any_input(const Op& op, const auto& is_so) {
  return std::ranges::any_of(op.contributions,
                             [&](const Contribution& each) { return std::ranges::any_of(each.inputs, is_so); });
}

}  // namespace

bool reads_in_place(const Op& op) { return any_input(op, &Input::in_place); }

std::optional<muster::Error> lost_input(const RunningOp& running) {
  if (!running.reads_in_place) return std::nullopt;
  const auto is_lost = [](const Input& input) {
    return input.in_place && std::ranges::any_of(input.memories, [](const SegmentMemory* memory) {
             return memory && memory->in_place() && memory->is_lost();
           });
  };
  if (!any_input(*running.op, is_lost)) return std::nullopt;
  return owner_gone("an input of " + running.op->name);
}

muster::Result<Plan> plan_of(const RunningOp& running) try {
  return make_plan(*running.op, sharing_of(running), takers_of(running));
} catch (const std::bad_alloc&) {
  return no_heap();
}

}  // namespace musterd
