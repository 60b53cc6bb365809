#include "collective/pending_ops.hpp"

#include <algorithm>
#include <new>
#include <utility>

#include "base/make_room.hpp"
#include "collective/op_effort.hpp"

namespace musterd {

namespace {

bool comes_first(const Contribution& a, const Contribution& b) {
  return std::pair(a.rank, a.kind) < std::pair(b.rank, b.kind);
}

/// Moves each contribution only once, as they are large, and moves none before there is memory for all.
std::vector<Contribution> in_rank_order(std::vector<Contribution>& contributions) {
  std::vector<Contribution*> order;
  order.reserve(contributions.size());
  for (auto& contribution : contributions) order.push_back(&contribution);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return comes_first(*a, *b); });
  std::vector<Contribution> sorted;
  sorted.reserve(contributions.size());
  for (auto* contribution : order) sorted.push_back(std::move(*contribution));
  return sorted;
}

/// The contribution whose charge is the largest. It pays for remembering that its op failed.
Contribution& richest(std::vector<Contribution>& contributions) {
  return *std::ranges::max_element(contributions, {}, [](const auto& each) { return each.charge.all_heap(); });
}

bool may_come(const Members& members, const PendingOp& op, int rank) {
  return op.is(Match::Of::reform) ? members.is_live(rank) : members.may_come(rank);
}

/// How many contributions a new op waits for.
std::size_t count_awaited(const Members& members, const PendingOp& op) {
  if (op.is(Match::Of::reform)) return members.count_live();
  if (!op.is(Match::Of::pair)) return members.expected();
  return std::size_t{members.may_come(op.match->source)} + std::size_t{members.may_come(op.match->destination)};
}

}  // namespace

PendingOps::PendingOps(const Members& members, OpId first, std::size_t failures_max, std::size_t failures_bytes_max)
    : members_(members),
      next_id_(first),
      ordered_(members.world_size()),
      matched_(members.world_size()),
      failed_(members.world_size(), failures_max, failures_bytes_max),
      gathering_(members.world_size()) {}

bool PendingOps::begins_op(const Contribution& contribution) const {
  return is_by_order(contribution) ? ordered_.begins_op(contribution.rank) : matched_.begins_op(contribution);
}

PendingOp* PendingOps::find_or_open(const Contribution& contribution, TimePoint now) {
  PendingOp* op =
      is_by_order(contribution) ? ordered_.find_or_add(contribution.rank) : &matched_.find_or_add(contribution);
  if (!op || op->is_open()) return op;
  try {
    open(*op, contribution, now);
  } catch (const std::bad_alloc&) {
    if (op->match) matched_.remove(*op);
    else ordered_.drop_newest();
    throw;
  }
  return op;
}

/// What may throw comes first.
void PendingOps::open(PendingOp& op, const Contribution& contribution, TimePoint now) {
  auto made = std::make_shared<Op>();
  made->name = op_name(contribution, op.sequence);
  made->world_size = members_.world_size();
  op.since = now;
  op.deadline = contribution.deadline;
  op.awaited = count_awaited(members_, op);
  op.losses_known = members_.gone().size();
  if (op.is(Match::Of::pair)) op.peer = contribution.root;
  // A small group gets room for all at once. Room for a thousand ranks is made as they come.
  made->contributions.reserve(std::min(op.awaited, contributions_at_once));
  made->id = op.id = next_id_;
  next_id_ = next_op(next_id_);
  op.op = std::move(made);
  by_losses_.push_back(op);
  gathering_.begin(op);
}

void PendingOps::abandon(PendingOp& op) {
  gathering_.end(op);
  if (op.match) matched_.remove(op);
  else ordered_.drop_newest();
}

void PendingOps::take(PendingOp& op, Contribution&& contribution) {
  arrive(&op, contribution);
  gathering_.hasten(op, contribution.deadline);
  gathering_.add_contribution(op, contribution.rank);
  std::string().swap(contribution.key);  // the match has the key
  op.op->contributions.push_back(std::move(contribution));
}

void PendingOps::arrive(PendingOp* op, const Contribution& contribution) {
  if (op) op->arrive(contribution);
  if (!op || !op->match) ordered_.advance(contribution.rank);
}

void PendingOps::start(PendingOp& op, std::vector<Action>& actions) {
  make_room_in(actions);
  auto& contributions = op.op->contributions;
  if (!std::is_sorted(contributions.begin(), contributions.end(), comes_first))
    contributions = in_rank_order(contributions);
  if (op.is(Match::Of::key)) op.op->key = op.match->key;
  gathering_.end(op);
  actions.emplace_back(std::in_place_type<StartOp>, StartOp{std::exchange(op.op, nullptr)});
}

void PendingOps::fail(PendingOp& op, const muster::Error& error, std::vector<Action>& actions) {
  auto& present = op.op->contributions;
  std::vector<Ticket> tickets;
  tickets.reserve(present.size());
  for (const Contribution& contribution : present) tickets.push_back(contribution.ticket);
  Charge& payer = richest(present).charge;
  auto failure = failed_.make_failure(op, error, payer.all_heap());
  // The contributors get the error that is remembered, so that late ranks get the same.
  FailOp told{op.id, failure->error(), std::move(tickets), effort_of(*op.op)};
  make_room_in(actions);
  failed_.remember(op, std::move(failure), payer);
  // Nothing from here on needs memory.
  gathering_.end(op);
  op.op.reset();
  actions.emplace_back(std::in_place_type<FailOp>, std::move(told));
}

void PendingOps::retire(const PendingOp& op) {
  if (!op.is_done_with()) return;
  if (!op.match) return retire_ordered();
  failed_.forget(op);
  matched_.remove(op);
}

void PendingOps::retire_ordered() {
  while (!ordered_.empty() && ordered_.oldest().is_done_with()) drop_oldest();
}

void PendingOps::forget_old_failures() {
  while (failed_.are_too_many()) {
    PendingOp& op = failed_.forget_oldest();
    if (!op.match) continue;  // it stays in the order
    op.awaited = 0;
    retire(op);
  }
}

std::vector<Contribution> PendingOps::take_retries(const std::string& key) {
  std::vector<Contribution> taken;
  const Match match{.of = Match::Of::key, .key = key};
  MatchedOps::Ops* ops = matched_.find(match);
  if (!ops) return taken;
  const auto op = std::ranges::find_if(*ops, &PendingOp::gathering);
  if (op == ops->end() || op->op->contributions.front().kind == muster::ipc::Kind::split) return taken;
  taken.reserve(op->op->contributions.size());
  gathering_.end(*op);
  for (Contribution& contribution : op->op->contributions) taken.push_back(std::move(contribution));
  ops->erase(op);
  matched_.tidy(match);
  return taken;
}

void PendingOps::drop_oldest() {
  failed_.forget(oldest());
  if (ordered_.empty()) matched_.remove_first();
  else ordered_.drop_oldest();
}

void PendingOps::retire_reforms() {
  MatchedOps::Ops* ops = reforms();
  if (!ops) return;
  ops->remove_if([&](const PendingOp& op) {
    if (op.is_done_with()) failed_.forget(op);
    return op.is_done_with();
  });
  matched_.tidy(match_of_reforms());
}

std::vector<int> PendingOps::missing(const PendingOp& op) const {
  std::vector<int> ranks;
  for (int rank = 0; rank < members_.world_size(); ++rank)
    if (may_come(members_, op, rank) && op.owes(rank, ordered_.position(rank)) > 0) ranks.push_back(rank);
  return ranks;
}

}  // namespace musterd
