#include "session/long_ops.hpp"

#include <algorithm>

namespace musterd {

void LongOps::add(List& ops, RunningOp& op) {
  op.wanted_at = clients_.erased();
  ops.push_back(op);
}

bool LongOps::is_wanted(const RunningOp& op, std::size_t& left) const {
  constexpr std::size_t looks_each = 8;
  const auto& contributions = op.op->contributions;
  const auto wanted = std::ranges::find_if(
      contributions, [&](const Contribution& contribution) { return works_.waiting(contribution.ticket) != nullptr; });
  left -= std::min(left, 1 + static_cast<std::size_t>(wanted - contributions.begin()) / looks_each);
  return wanted != contributions.end();
}

bool LongOps::may_have_unwanted(const List& ops) const {
  return !ops.empty() && ops.front().wanted_at != clients_.erased();
}

const RunningOp* LongOps::next_unwanted(std::size_t& left) {
  const RunningOp* const waiting = next_unwanted(waiting_, left);
  return waiting ? waiting : next_unwanted(with_lanes_, left);
}

const RunningOp* LongOps::next_unwanted(List& ops, std::size_t& left) {
  while (left > 0 && may_have_unwanted(ops)) {
    RunningOp& first = ops.front();
    first.wanted_at = clients_.erased();
    ops.splice(ops.end(), ops, ops.begin());
    if (!is_wanted(first, left)) return &first;
  }
  return nullptr;
}

}  // namespace musterd
