#include "collective/ordered_ops.hpp"

#include <algorithm>
#include <limits>

#include "base/assert.hpp"

namespace musterd {

std::uint64_t OrderedOps::slowest_position(const Members& members) const {
  auto slowest = std::numeric_limits<std::uint64_t>::max();
  for (int rank = 0; rank < members.world_size(); ++rank)
    if (members.may_come(rank)) slowest = std::min(slowest, position(rank));
  return slowest;
}

PendingOp* OrderedOps::find_or_add(int rank) {
  const std::uint64_t sequence = position(rank);
  if (sequence < begin_) return nullptr;
  MUSTER_ASSERT(sequence <= end(), "nobody skips an op");
  if (sequence == end()) ops_.emplace_back().sequence = sequence;
  return &ops_[sequence - begin_];
}

void OrderedOps::drop_oldest() {
  ops_.pop_front();
  ++begin_;
}

}  // namespace musterd
