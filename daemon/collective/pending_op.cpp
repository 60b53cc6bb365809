#include "collective/pending_op.hpp"

#include "base/assert.hpp"
#include "collective/agreement.hpp"

namespace musterd {

using muster::ipc::Kind;

std::size_t PendingOp::owes(int rank, std::uint64_t position) const {
  if (!match) return position <= sequence ? 1 : 0;
  if (!is(Match::Of::pair)) return arrived[static_cast<std::size_t>(rank)] ? 0 : 1;
  const bool sends = match->source == rank && !arrived[0];
  const bool receives = match->destination == rank && !arrived[1];
  return std::size_t{sends} + std::size_t{receives};
}

bool PendingOp::has_come(int rank, std::uint64_t position) const {
  if (!match) return position > sequence;
  if (!is(Match::Of::pair)) return arrived[static_cast<std::size_t>(rank)];
  return (match->source == rank && arrived[0]) || (match->destination == rank && arrived[1]);
}

void PendingOp::arrive(const Contribution& contribution) {
  MUSTER_ASSERT(awaited > 0, "an op is kept only while somebody may come");
  --awaited;
  if (match) arrived[match->index_of(contribution)] = true;
}

bool PendingOp::needs_in_person(int rank) const {
  if (is(Match::Of::pair)) return match->source == rank || match->destination == rank;
  const Contribution& first = op->contributions.front();
  return has_root(first.kind) && first.root == rank;
}

PairCall PendingOp::pair_call() const {
  const Contribution& came = op->contributions.front();
  return {came.kind == Kind::send, came.rank, came.root, came.tag, quoted_key(match->key)};
}

}  // namespace musterd
