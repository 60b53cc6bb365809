// What happens when a rank contributes?
#include "collective/muster.hpp"

#include <new>
#include <utility>

#include "base/assert.hpp"
#include "base/heap_reserve.hpp"
#include "base/make_room.hpp"
#include "collective/agreement.hpp"

namespace musterd {

using muster::Error;

namespace {

/// Whether the op is one of two live ranks, and all others that are lost have left.
bool concerns_no_lost_one(const Members& members, const Contribution& contribution) {
  return is_pairwise(contribution.kind) && !members.refuses_pairs() && members.is_live(contribution.root);
}

/// Why an op can't begin. Called for its first contribution only.
std::optional<Error> refusal(const Members& members, const PendingOp& op, const Contribution& contribution) {
  if (op.is(Match::Of::reform)) return std::nullopt;
  const std::string& name = op.op->name;
  if (members.refuses_ops() && !concerns_no_lost_one(members, contribution))
    return lost_before_called(name, members.losses());
  if (!has_root(contribution.kind) && !is_pairwise(contribution.kind)) return std::nullopt;
  const int needed = contribution.root;
  if (!members.is_rank(needed)) return std::nullopt;  // check_contribution() reports that it is Invalid
  switch (members.standing(needed)) {
    case Members::Standing::absent: return not_members(name, std::vector{needed});
    case Members::Standing::gone: return needed_one_lost(name, {{needed, members.losses().at(needed)}});
    case Members::Standing::live:
    case Members::Standing::vacant: return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

Muster::Muster(int world_size, std::span<const int> members, Limits limits, std::uint32_t epoch)
    : limits_(limits),
      epoch_(epoch),
      members_(world_size, members),
      ops_(members_, first_op_of(epoch), limits.history_max, limits.history_bytes_max) {}

Muster::Handle Muster::contribute(Contribution&& contribution, TimePoint now, std::vector<Action>& actions) {
  MUSTER_ASSERT(members_.is_live(contribution.rank), "only live members contribute");
  forget_old_codes();
  if (ops_.ordered().size() >= limits_.in_flight_max + limits_.history_max && is_by_order(contribution) &&
      ops_.begins_op(contribution))
    give_up_oldest(actions);
  PendingOp* op = ops_.find_or_open(contribution, now);
  if (op) catch_up(*op, actions);
  if (!op || !op->gathering()) {
    answer_late(op, contribution, actions);
    return {};
  }
  const auto error = prepare(*op, contribution);
  ops_.take(*op, std::move(contribution));
  if (!error && op->awaited > 0) return op->handle();
  try {
    if (error) ops_.fail(*op, *error, actions);
    else start(*op, actions);
  } catch (const std::bad_alloc&) {
    ops_.gathering().hasten(*op, TimePoint{});
    return op->handle();
  }
  ops_.retire(*op);
  ops_.forget_old_failures();
  return {};
}

/// Gives up the oldest op that is matched by order. A rank that comes to it later learns its code, and that no more is
/// remembered.
void Muster::give_up_oldest(std::vector<Action>& actions) {
  PendingOp& oldest = ops_.oldest();
  catch_up(oldest, actions);
  if (oldest.gathering())
    ops_.fail(oldest, too_far_behind(oldest.op->name, ops_.missing(oldest), ops_.ordered().size()), actions);
  if (oldest.awaited > 0) codes_.keep(oldest);
  ops_.drop_oldest();
  ops_.retire_ordered();
}

/// Tells a rank the outcome of an op that failed before it came. If the op is null, it has been dropped.
void Muster::answer_late(PendingOp* op, const Contribution& contribution, std::vector<Action>& actions) {
  const auto called = position(contribution.rank);
  auto error = op && op->failure ? op->failure->error()
                                 : outcome_forgotten(op_name(contribution, called), contribution.rank,
                                                     limits_.history_max, op ? op->forgotten : codes_.code_of(called));
  actions.emplace_back(std::in_place_type<FailOp>, FailOp{op ? op->id : 0, std::move(error), {contribution.ticket}, 0});
  ops_.arrive(op, contribution);
  if (op) ops_.retire(*op);
  ops_.forget_old_failures();
}

/// Checks a contribution. What may throw for lack of memory comes first: if it throws, the contribution has not come.
std::optional<Error> Muster::prepare(PendingOp& op, const Contribution& contribution) try {
  make_room_in(op.op->contributions);
  return objection(op, contribution);
} catch (const std::bad_alloc&) {
  if (op.op->contributions.empty()) ops_.abandon(op);
  throw;
}

/// Why the op fails if it gets this contribution.
std::optional<Error> Muster::objection(const PendingOp& op, const Contribution& contribution) const {
  if (op.must_fail()) return no_heap();
  const auto& [id, name, key, world_size, present] = *op.op;
  if (present.empty())
    if (auto error = refusal(members_, op, contribution)) return error;
  if (ops_.gathering().in_flight(contribution.rank) >= limits_.in_flight_max)
    return too_many_in_flight(name, contribution.rank, limits_.in_flight_max);
  if (contribution.fault) return no_input(name, contribution.rank, *contribution.fault);
  if (auto error = check_contribution(name, world_size, contribution)) return error;
  if (auto error = check_agreement(name, present, contribution)) return error;
  return check_amount(name, present.size() + 1, contribution);
}

void Muster::start(PendingOp& op, std::vector<Action>& actions) {
  ops_.start(op, actions);
  ++running_;
}

bool Muster::is_own(OpId op) const { return epoch_of(op) == epoch_; }

void Muster::finished(OpId op) {
  // Ops of an epoch that is over may finish after it.
  if (is_own(op) && running_ > 0) --running_;
}

/// Forgets some codes that no rank can ask for any more.
void Muster::forget_old_codes() {
  if (!codes_.empty()) codes_.forget_some(ops_.ordered().slowest_position(members_), ops_.ordered().begin());
}

std::vector<int> Muster::missing(Handle handle) const {
  const PendingOp* op = ops_.gathering().find(handle);
  return op ? ops_.missing(*op) : std::vector<int>();
}

}  // namespace musterd
