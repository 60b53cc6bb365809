// What the loss of a seat, or the end of an epoch, means for a group's ops. Thousands of ops may be pending, so they
// learn of it in pieces, and others have their turns in between.
#include <algorithm>
#include <map>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "base/assert.hpp"
#include "collective/op_effort.hpp"
#include "session/group_ops.hpp"
#include "session/turn.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::OnLoss;
using muster::Result;
namespace ipc = muster::ipc;

// A lost seat is in `leaving_` from before anything happens to it until all that follows from its loss is done. So if
// something is thrown meanwhile, the loss goes on in the next turn.

Result<void> GroupOps::leave(Client& client, SeatId seat, const Loss& loss, TimePoint now) {
  const auto found = client.seats.find(seat);
  if (found == client.seats.end())
    return Error(Code::invalid, fmt::format("seat {} is not held by this client", seat.value));
  Leaving& leaving = leaving_.emplace_back();
  leaving.loss = loss;
  leaving.seats.reserve(1);
  leaving.seats.insert(client.seats.extract(found));
  const auto own = std::prev(leaving_.end());
  if (lose_some(*own, now)) leaving_.erase(own);
  return {};
}

void GroupOps::lose_all_seats(Client& client, const Loss& loss, TimePoint now) {
  if (client.seats.empty()) return;
  Leaving& leaving = leaving_.emplace_back();
  leaving.loss = loss;
  leaving.seats.swap(client.seats);
  const auto own = std::prev(leaving_.end());
  if (lose_some(*own, now)) leaving_.erase(own);
}

void GroupOps::lose_more(TimePoint now) {
  if (leaving_.empty()) return;
  const auto first = leaving_.begin();
  if (lose_some(*first, now)) leaving_.erase(first);
  else leaving_.splice(leaving_.end(), leaving_, first);
}

/// Loses the seat of a client that is gone at once, as another client wants to take it. False if there is no such seat.
bool GroupOps::lose_before_its_turn(const GroupPtr& state, int rank) {
  const auto held = state->group.seats().find(rank);
  if (held == state->group.seats().end()) return false;
  for (auto& leaving : leaving_) {
    const auto seat = leaving.seats.find(held->second.id);
    if (seat == leaving.seats.end()) continue;
    std::size_t left = effort_of_turn;
    lose(leaving, seat, left, parts_.now);
    return true;
  }
  return false;
}

/// Loses some of the seats. True if none is left. A client may hold all seats of a large group, so the members are told
/// once and not for each seat.
bool GroupOps::lose_some(Leaving& leaving, TimePoint now) {
  constexpr std::size_t effort_of_seat = 8;
  std::size_t left = effort_of_turn;
  while (!leaving.seats.empty() && left > 0) {
    left -= std::min(left, effort_of_seat);
    lose(leaving, leaving.seats.begin(), left, now);
    pay_for_epochs(left);
  }
  if (!leaving.seats.empty()) return false;
  news_.tell(leaving.untold, left);
  return true;
}

void GroupOps::lose(Leaving& leaving, Client::Seats::iterator seat, std::size_t& left, TimePoint now) {
  const GroupPtr state = seat->second.group;
  if (lose_seat(seat->first, seat->second, leaving.loss, left, now) == AfterLoss::tell)
    GroupNews::note(*state, leaving.untold);
  leaving.seats.erase(seat);
}

/// Loses one seat. May be called again if it throws.
GroupOps::AfterLoss GroupOps::lose_seat(SeatId seat, Client::Seated& seated, const Loss& loss, std::size_t& left,
                                        TimePoint now) {
  const GroupPtr state = seated.group;
  if (!seated.lost) {
    const int rank = seated.rank;
    parts_.table.former().add(state->group.settings(), rank, loss, now);
    withdraw_waiting(state, rank, left, now);
    const bool newcomer = state->group.is_newcomer(seat);
    if (!newcomer) {
      state->lost.try_emplace(rank);
      state->muster->prepare_loss(rank, loss);
    }
    // This is the last step that may throw for lack of memory, until the ops have learned of the loss.
    seated.lost = state->group.lose(seat);
    state->results.clear();
    if (!newcomer) {
      state->lost.at(rank) = std::move(seated.charge);
      const auto epoch = state->group.epoch();
      auto actions = lose_by_policy(*state, rank, loss, left);
      perform(state, actions, now);
      // The loss may have completed a reform. The newcomers are members then, and have been told.
      if (state->group.epoch() != epoch) seated.lost = Group::Lost::newcomer;
    }
  }
  switch (*seated.lost) {
    case Group::Lost::member: settle_own(state, left, now); return AfterLoss::tell;
    case Group::Lost::newcomer:
      // No newcomer is left for whom the next epoch would begin.
      if (state->group.empty()) end_group(state, left, now);
      return AfterLoss::silence;
    case Group::Lost::last:
      if (state->group.newcomers().empty()) end_group(state, left, now);
      else propose_epoch(state, now);
      return AfterLoss::silence;
  }
  return AfterLoss::silence;
}

void GroupOps::end_group(const GroupPtr& state, std::size_t& left, TimePoint now) {
  auto ended = end_epoch(state, all_gone());
  parts_.table.remove(state);
  settle(std::move(ended), left, now);
}

std::vector<Action> GroupOps::lose_by_policy(GroupState& state, int rank, const Loss& loss, std::size_t& left) {
  std::vector<Action> actions;
  switch (state.group.settings().on_loss) {
    case OnLoss::fail: state.muster->lose(rank, loss, actions, left); break;
    case OnLoss::shrink: state.muster->shrink(rank, loss, actions, left); break;
    case OnLoss::wait: state.muster->vacate(rank, loss, actions, left); break;
  }
  return actions;
}

/// Fails the rank's ops that have no place in any order yet: those that it called too early, and those that wait for
/// their turn since the epoch began.
void GroupOps::withdraw_waiting(const GroupPtr& state, int rank, std::size_t& left, TimePoint now) {
  for (auto* waiting : {&state->early, &state->coming}) {
    const auto own = waiting->find(rank);
    if (own == waiting->end()) continue;
    UnsettledNode unsettled;
    unsettled.push_back({state,
                         nullptr,
                         {},
                         Error(Code::group_closed, fmt::format("rank {} left group '{}' before its op began", rank,
                                                               state->group.settings().name))});
    unsettled.front().withdrawn.swap(own->second.ops);
    waiting->erase(own);
    settle(std::move(unsettled), left, now);
  }
}

/// Does what is left to do for the running epoch: ops learn of losses, and those that were called early take their
/// places.
void GroupOps::settle_own(const GroupPtr& state, std::size_t& left, TimePoint now) {
  if (state->settles() || state->is_settled()) return;
  unsettled_groups_.push_back(*state);
  parts_.clients.guarded([&] {
    if (settle_some(state, left, now)) state->UnsettledHook::unlink();
  });
}

/// Does as much as there is time for; the rest takes turns with other work.
void GroupOps::settle(UnsettledNode unsettled, std::size_t& left, TimePoint now) {
  const auto own = unsettled.begin();
  unsettled_.splice(unsettled_.end(), unsettled);
  parts_.clients.guarded([&] {
    if (settle_some(*own, left, now)) unsettled_.erase(own);
  });
}

void GroupOps::settle_more(TimePoint now) {
  if (!unsettled_.empty()) {
    std::size_t left = effort_of_turn;
    const auto first = unsettled_.begin();
    unsettled_.splice(unsettled_.end(), unsettled_, first);
    if (settle_some(*first, left, now)) unsettled_.erase(first);
  }
  if (unsettled_groups_.empty()) return;
  std::size_t left = effort_of_turn;
  const GroupPtr state = unsettled_groups_.front().shared_from_this();
  unsettled_groups_.splice(unsettled_groups_.end(), unsettled_groups_, unsettled_groups_.begin());
  if (settle_some(state, left, now)) state->UnsettledHook::unlink();
}

/// Settles some of a group's ops. True if nothing is left to do.
bool GroupOps::settle_some(const GroupPtr& state, std::size_t& left, TimePoint now) {
  decide(state, now, [&](auto& actions) { state->muster->catch_up(actions, left); });
  pay_for_epochs(left);
  while (left > 0 && !state->coming.empty()) take_place(state, left, now);
  return state->is_settled();
}

bool GroupOps::settle_some(Unsettled& unsettled, std::size_t& left, TimePoint now) {
  auto& [state, ended, withdrawn, why] = unsettled;
  while (left > 0 && !withdrawn.empty()) {
    left -= std::min(left, effort_of(withdrawn.front()));
    parts_.works.settle_failed(withdrawn.front().ticket, why);
    withdrawn.pop_front();
  }
  if (!ended) return withdrawn.empty();
  decide(state, now, [&, &muster = *ended, &error = why](auto& actions) { muster.dissolve(error, actions, left); });
  return withdrawn.empty() && ended->empty();
}

/// Gives the next op that was called early its place. The effort includes what the op brings about.
void GroupOps::take_place(const GroupPtr& state, std::size_t& left, TimePoint now) {
  const auto first = state->coming.begin();
  auto& [ops, early] = first->second;
  Contribution contribution = std::move(ops.front());
  ops.pop_front();
  left -= std::min(left, 1 + effort_of(contribution));
  const bool was_early = early > 0;
  if (was_early) --early;
  if (ops.empty()) state->coming.erase(first);
  if (!was_early || contribution.kind != ipc::Kind::reform) {
    const auto done = muster(state, std::move(contribution), now);
    for (const Action& action : done) left -= std::min(left, effort_of(action));
    return pay_for_epochs(left);
  }
  // A newcomer's early reform asked for the epoch that has begun.
  try {
    parts_.works.settle_done(contribution.ticket, epoch_of(*state));
  } catch (const std::exception&) {
    parts_.works.cut_off(contribution.ticket);
  }
}

ipc::Done GroupOps::epoch_of(const GroupState& state) {
  ipc::Done done;
  done.epoch = state.group.epoch();
  for (const int rank : state.group.live()) done.live.push_back(rank);
  return done;
}

/// Takes the ops of the epoch that is over, which nobody comes to any more. The group has no ops after this.
GroupOps::UnsettledNode GroupOps::end_epoch(const GroupPtr& state, Error why) const {
  UnsettledNode ended;
  ended.push_back({state, nullptr, {}, std::move(why)});
  ended.front().ended = std::make_unique<Muster>(state->group.settings().world_size, std::span<const int>(),
                                                 parts_.table.muster_limits(), state->group.epoch());
  std::swap(ended.front().ended, state->muster);
  return ended;
}

Error GroupOps::all_gone() { return Error(Code::peer_lost, "every rank of the group is gone"); }

GroupOps::NextEpoch GroupOps::prepare_epoch(const GroupPtr& state, std::uint32_t number, Error why) const {
  NextEpoch next{number, state->group.next_members(), {}, {}};
  for (std::size_t rank = 0; rank < state->coming.size(); ++rank) next.behind.push_back({state, nullptr, {}, why});
  next.ended.push_back({state, nullptr, {}, std::move(why)});
  // This is the next epoch's muster; begin_epoch() swaps it with the ended one.
  next.ended.front().ended =
      std::make_unique<Muster>(state->group.settings().world_size, next.members, parts_.table.muster_limits(), number);
  return next;
}

void GroupOps::begin_epoch(const GroupPtr& state, NextEpoch next, TimePoint now) {
  std::swap(next.ended.front().ended, state->muster);
  state->group.begin_epoch(std::move(next.members), next.number);
  state->lost.clear();
  state->results.clear();
  state->history.reset();
  std::size_t left = effort_of_turn;
  // Ops that still waited for their place in the epoch that ends.
  std::map<int, GroupState::Waiting> behind;
  behind.swap(state->coming);
  state->coming.swap(state->early);
  for (auto& [rank, queue] : state->coming) queue.early = queue.ops.size();
  settle(std::move(next.ended), left, now);
  for (auto& [rank, queue] : behind) {
    UnsettledNode unsettled;
    unsettled.splice(unsettled.end(), next.behind, next.behind.begin());
    unsettled.front().withdrawn.swap(queue.ops);
    settle(std::move(unsettled), left, now);
  }
  news_.tell(*state, left);
  settle_own(state, left, now);
  spent_on_epochs_ += effort_of_turn - left;
}

/// Takes the effort of epochs that have begun from `left`, as many may begin at once, each with ops that waited for it.
void GroupOps::pay_for_epochs(std::size_t& left) { left -= std::min(left, std::exchange(spent_on_epochs_, 0)); }

}  // namespace musterd
