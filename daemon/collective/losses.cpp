// Which ranks may still come to an op, and what a lost rank or a passed deadline means for pending ops.
#include <algorithm>
#include <utility>

#include "base/heap_reserve.hpp"
#include "base/make_room.hpp"
#include "collective/agreement.hpp"
#include "collective/muster.hpp"
#include "collective/op_effort.hpp"

namespace musterd {

using muster::Error;

bool Muster::may_come(const Slot& slot, int rank) const {
  switch (standing(rank)) {
    case Standing::live: return true;
    case Standing::vacant: return !slot.is(Match::Of::reform);
    case Standing::absent:
    case Standing::gone: return false;
  }
  return false;
}

/// How many contributions to the op the rank still owes: 2 if it is both sender and receiver.
std::size_t Muster::owes(const Slot& slot, int rank) const {
  if (!slot.match) return rank_state(rank).position <= slot.sequence ? 1 : 0;
  if (!slot.is(Match::Of::pair)) return slot.arrived[static_cast<std::size_t>(rank)] ? 0 : 1;
  const bool sends = slot.match->source == rank && !slot.arrived[0];
  const bool receives = slot.match->destination == rank && !slot.arrived[1];
  return std::size_t{sends} + std::size_t{receives};
}

/// How many contributions a new slot waits for.
std::size_t Muster::count_awaited(const Slot& slot) const {
  if (!slot.match || slot.is(Match::Of::key)) return expected_;
  if (slot.is(Match::Of::pair))
    return std::size_t{may_come(slot, slot.match->source)} + std::size_t{may_come(slot, slot.match->destination)};
  std::size_t count = 0;
  for (int rank = 0; rank < world_size_; ++rank)
    if (may_come(slot, rank)) ++count;
  return count;
}

std::vector<int> Muster::missing(const Slot& slot) const {
  std::vector<int> ranks;
  for (int rank = 0; rank < world_size_; ++rank)
    if (may_come(slot, rank) && owes(slot, rank) > 0) ranks.push_back(rank);
  return ranks;
}

/// Why an op can't begin. Called for its first contribution only.
std::optional<Error> Muster::refusal(const Slot& slot, const Contribution& contribution) const {
  if (slot.is(Match::Of::reform)) return std::nullopt;
  if (refusing_) return lost_before_called(slot.op->name, losses_);
  if (!has_root(contribution.kind) && !is_pairwise(contribution.kind)) return std::nullopt;
  const int needed = contribution.root;
  if (needed < 0 || needed >= world_size_) return std::nullopt;  // check_contribution() reports that it is Invalid
  if (standing(needed) == Standing::absent) return not_members(slot.op->name, std::vector{needed});
  if (standing(needed) == Standing::gone) return needed_one_lost(slot.op->name, {{needed, losses_.at(needed)}});
  return std::nullopt;
}

bool Muster::needs_in_person(const Slot& slot, int rank) {
  if (slot.is(Match::Of::pair)) return slot.match->source == rank || slot.match->destination == rank;
  const Contribution& first = slot.op->contributions.front();
  return has_root(first.kind) && first.root == rank;
}

void Muster::lose(int rank, const Loss& loss, std::vector<Action>& actions, std::size_t& left) {
  refusing_ = true;
  withdraw(rank, loss, Standing::gone, actions, left);
}

void Muster::shrink(int rank, const Loss& loss, std::vector<Action>& actions, std::size_t& left) {
  withdraw(rank, loss, Standing::gone, actions, left);
}

void Muster::vacate(int rank, const Loss& loss, std::vector<Action>& actions, std::size_t& left) {
  withdraw(rank, loss, Standing::vacant, actions, left);
}

void Muster::prepare_loss(int rank, const Loss& loss) {
  make_room_in(gone_);
  losses_.try_emplace(rank, loss);
}

void Muster::withdraw(int rank, const Loss& loss, Standing after, std::vector<Action>& actions, std::size_t& left) {
  if (standing(rank) != Standing::live) return;
  prepare_loss(rank, loss);
  rank_state(rank).standing = after;
  if (after == Standing::gone) {
    --expected_;
    gone_.push_back(rank);
  }
  try {
    catch_up(actions, left);
    catch_up_reforms(rank, actions, left);
  } catch (const std::bad_alloc&) {
    // The ops that are left learn of the loss later.
  }
}

/// With many ranks it takes time to find and to name them, and to tell everybody.
std::size_t effort_of(const Action& action) {
  constexpr std::size_t of_running = 16;
  constexpr std::size_t named_each = 32;
  constexpr std::size_t told_each = 512;
  if (const auto* failed = std::get_if<FailOp>(&action)) {
    const std::size_t named = failed->error.ranks().size();
    return failed->effort + failed->tickets.size() * (1 + named / told_each) + named / named_each;
  }
  return of_running + effort_of(*std::get<StartOp>(action).op);
}

namespace {

/// Takes from `left` the cost of one op, and of what was appended to `actions` after the first `before`.
void pay(std::size_t& left, const std::vector<Action>& actions, std::size_t before) {
  std::size_t cost = 1;
  for (std::size_t i = before; i < actions.size(); ++i) cost += effort_of(actions[i]);
  left -= std::min(left, cost);
}

}  // namespace

void Muster::catch_up(std::vector<Action>& actions, std::size_t& left) {
  while (left > 0 && any_is_behind()) {
    Slot& slot = by_knowledge_.front();
    const std::size_t before = actions.size();
    catch_up(slot, actions);
    retire(slot);
    pay(left, actions, before);
  }
  while (left > 0 && reforms_wait_) begin_first_reform(actions, left);
  forget_old_failures();
}

void Muster::expire(TimePoint now, std::vector<Action>& actions, std::size_t& left, const Locate& locate) {
  while (left > 0 && !by_deadline_.empty()) {
    Slot& slot = *by_deadline_.begin();
    if (slot.deadline > now) break;
    const std::size_t before = actions.size();
    catch_up(slot, actions);
    if (slot.gathering()) fail(slot, slot.must_fail() ? no_heap() : late(slot, now, locate), actions);
    retire(slot);
    pay(left, actions, before);
  }
  forget_old_failures();
}

void Muster::catch_up(Slot& slot, std::vector<Action>& actions) {
  if (!is_behind(slot)) return;
  for (; is_behind(slot); ++slot.losses_known) go_on_without(slot, gone_[slot.losses_known], actions);
  by_knowledge_.splice(by_knowledge_.end(), by_knowledge_, by_knowledge_.iterator_to(slot));
}

/// A reform that is complete now ends the epoch, so it can't wait. Ranks come to reforms in order, so no later one is
/// complete before the first. The others begin when there is time for them, usually with the end of the epoch: see
/// dissolve().
void Muster::catch_up_reforms(int rank, std::vector<Action>& actions, std::size_t& left) {
  const auto found = matches_.find({.of = Match::Of::reform, .key = {}});
  if (found == matches_.end()) return;
  if (standing(rank) == Standing::vacant)
    for (Slot& slot : found->second) slot.awaited -= owes(slot, rank);
  found->second.remove_if([&](const Slot& slot) {
    const bool over = !slot.gathering() && slot.awaited == 0;
    if (over) forget_failure(slot);
    return over;
  });
  if (found->second.empty()) matches_.erase(found);
  begin_first_reform(actions, left);
}

/// Begins the first reform if it is complete.
void Muster::begin_first_reform(std::vector<Action>& actions, std::size_t& left) {
  reforms_wait_ = false;
  const auto found = matches_.find({.of = Match::Of::reform, .key = {}});
  if (found == matches_.end()) return;
  const auto first = std::ranges::find_if(found->second, [](const Slot& slot) { return slot.gathering(); });
  if (first == found->second.end()) return;
  const auto next = std::next(first);
  reforms_wait_ = true;  // stays true if there is no memory to begin this one
  const std::size_t before = actions.size();
  catch_up(*first, actions);
  start_if_complete(*first, actions);
  reforms_wait_ = !first->gathering() && next != found->second.end();
  retire(*first);
  pay(left, actions, before);
}

/// Starts an op that a loss has completed, and that did not begin then.
void Muster::start_if_complete(Slot& slot, std::vector<Action>& actions) {
  if (slot.gathering() && slot.awaited == 0 && !slot.must_fail()) start(slot, actions);
}

/// Goes on without a rank that does not come to the op any more.
void Muster::go_on_without(Slot& slot, int rank, std::vector<Action>& actions) {
  const std::size_t owed = owes(slot, rank);
  if (owed == 0 || may_come(slot, rank)) return;
  if (slot.gathering()) {
    const bool is_op = !slot.is(Match::Of::reform);
    const auto lost = [&] { return Losses{{rank, losses_.at(rank)}}; };
    if (is_op && !refusing_ && needs_in_person(slot, rank)) fail(slot, needed_one_lost(slot.op->name, lost()), actions);
    else if (slot.must_fail() || (is_op && refusing_)) fail(slot, lost_while_awaited(slot.op->name, lost()), actions);
    else if (slot.awaited == owed) start(slot, actions);
  }
  slot.awaited -= owed;
}

void Muster::dissolve(const Error& error, std::vector<Action>& actions, std::size_t& left) {
  const auto dissolve_front = [&](auto& slots) {
    const std::size_t before = actions.size();
    dissolve(slots.front(), error, actions);
    slots.pop_front();
    pay(left, actions, before);
  };
  for (; left > 0 && !dropped_.empty(); --left) dropped_.erase(dropped_.begin());
  while (left > 0 && !ordered_.empty()) dissolve_front(ordered_);
  while (left > 0 && !matches_.empty()) {
    const auto first = matches_.begin();
    dissolve_front(first->second);
    if (first->second.empty()) matches_.erase(first);
  }
}

void Muster::dissolve(Slot& slot, const Error& error, std::vector<Action>& actions) {
  catch_up(slot, actions);
  start_if_complete(slot, actions);
  if (slot.gathering()) fail(slot, error, actions);
  forget_failure(slot);
}

void Muster::reoccupy(int rank) {
  if (standing(rank) != Standing::vacant) return;
  rank_state(rank).standing = Standing::live;
  losses_.erase(rank);
  const auto reforms = matches_.find({.of = Match::Of::reform, .key = {}});
  if (reforms == matches_.end()) return;
  for (Slot& slot : reforms->second) slot.awaited += owes(slot, rank);
}

bool Muster::has_come(const Slot& slot, int rank) const {
  if (!slot.match) return rank_state(rank).position > slot.sequence;
  if (!slot.is(Match::Of::pair)) return slot.arrived[static_cast<std::size_t>(rank)];
  return (slot.match->source == rank && slot.arrived[0]) || (slot.match->destination == rank && slot.arrived[1]);
}

/// The name of an op that gathers and that the rank has come to. Empty if there is none among the ops with the next
/// deadlines.
std::string Muster::where_it_waits(int rank) const {
  int looked_at = 0;
  constexpr int looked_at_max = 64;
  for (const Slot& slot : by_deadline_) {
    if (++looked_at > looked_at_max) break;
    if (!slot.gathering() || !has_come(slot, rank)) continue;
    // Who waits in one has called one of its two ends, and the other end has not come.
    return slot.is(Match::Of::pair) ? call_text(pair_call(slot)) : slot.op->name;
  }
  return {};
}

Error Muster::late(const Slot& slot, TimePoint now, const Locate& locate) const {
  const auto absent = missing(slot);
  std::vector<int> vacant;
  for (int rank : absent)
    if (standing(rank) == Standing::vacant) vacant.push_back(rank);
  if (!vacant.empty()) return not_replaced(slot.op->name, vacant, losses_);
  std::vector<int> present;
  for (const Contribution& contribution : slot.op->contributions) present.push_back(contribution.rank);
  std::sort(present.begin(), present.end());
  constexpr std::size_t located_max = 2;
  std::map<int, Whereabouts> known;
  for (const int rank : std::span(absent).first(locate ? std::min(absent.size(), located_max) : 0)) {
    auto whereabouts = locate(rank);
    whereabouts.waits_in = where_it_waits(rank);
    known.emplace(rank, std::move(whereabouts));
  }
  if (slot.is(Match::Of::pair)) return peer_did_not_come(pair_call(slot), now - slot.since, known);
  return deadline_passed(slot.op->name, absent, present, now - slot.since, known);
}

}  // namespace musterd
