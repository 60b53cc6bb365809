#include "collective/gathering_ops.hpp"

namespace musterd {

using muster::ipc::Kind;

namespace {

/// The kind of the call that the op waits for.
Kind awaited_kind(const PendingOp& op) {
  const Kind came = op.op->contributions.front().kind;
  if (!op.is(Match::Of::pair)) return came;
  return came == Kind::send ? Kind::recv : Kind::send;
}

}  // namespace

void GatheringOps::begin(PendingOp& op) {
  ++size_;
  by_deadline_.insert(by_deadline_.end(), op);
  by_handle_.insert(by_handle_.end(), op);
  add_owed(op, op.name_bytes());
}

void GatheringOps::add_owed(const PendingOp& op, std::uint64_t bytes) {
  if (op.peer == PendingOp::everyone) nameable_bytes_ += bytes;
  else if (op.peer >= 0 && op.peer < static_cast<int>(owed_bytes_.size()))
    owed_bytes_[static_cast<std::size_t>(op.peer)] += bytes;
}

void GatheringOps::add_contribution(const PendingOp& op, int rank) {
  ++in_flight_[static_cast<std::size_t>(rank)];
  if (op.peer == PendingOp::everyone) owed_bytes_[static_cast<std::size_t>(rank)] -= op.name_bytes();
}

void GatheringOps::hasten(PendingOp& op, TimePoint deadline) {
  if (deadline >= op.deadline) return;
  by_deadline_.erase(by_deadline_.iterator_to(op));
  op.deadline = deadline;
  by_deadline_.insert(op);
}

void GatheringOps::end(PendingOp& op) {
  --size_;
  by_deadline_.erase(by_deadline_.iterator_to(op));
  by_handle_.erase(by_handle_.iterator_to(op));
  const std::uint64_t bytes = op.name_bytes();
  add_owed(op, -bytes);
  for (const Contribution& contribution : op.op->contributions) {
    const auto rank = static_cast<std::size_t>(contribution.rank);
    --in_flight_[rank];
    if (op.peer == PendingOp::everyone) owed_bytes_[rank] += bytes;
  }
}

std::optional<TimePoint> GatheringOps::next_deadline() const {
  if (by_deadline_.empty()) return std::nullopt;
  return by_deadline_.begin()->deadline;
}

const PendingOp* GatheringOps::find(PendingOp::Handle handle) const {
  const auto found = by_handle_.find(handle);
  return found == by_handle_.end() ? nullptr : &*found;
}

std::vector<GatheringOps::Owed> GatheringOps::owed(int rank, std::uint64_t position) const {
  std::vector<Owed> ops;
  for (const int peer : {PendingOp::everyone, rank}) {
    for (auto op = by_handle_.lower_bound(PendingOp::Handle{peer, 0}); op != by_handle_.end() && op->peer == peer; ++op)
      if (op->owes(rank, position) > 0)
        ops.push_back({op->sequence, op->match ? op->match->key : std::string(), awaited_kind(*op)});
  }
  return ops;
}

std::string GatheringOps::where_it_waits(int rank, std::uint64_t position) const {
  int looked_at = 0;
  constexpr int looked_at_max = 64;
  for (const PendingOp& op : by_deadline_) {
    if (++looked_at > looked_at_max) break;
    if (!op.has_come(rank, position)) continue;
    // Who waits in one has called one of its two ends, and the other end has not come.
    return op.is(Match::Of::pair) ? call_text(op.pair_call()) : op.op->name;
  }
  return {};
}

}  // namespace musterd
