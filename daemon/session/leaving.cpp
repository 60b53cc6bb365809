// What the loss of a seat, or the end of an epoch, means for a group's ops. Thousands of them may be pending, so they
// learn of it in pieces, and others have their turns in between.
#include <algorithm>
#include <iterator>
#include <utility>

#include "base/assert.hpp"
#include "session/node.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::OnLoss;
using muster::Result;
namespace ipc = muster::ipc;

Result<void> Node::leave(Client& client, SeatId seat, const Loss& loss, TimePoint now) {
  auto found = client.seats.find(seat);
  if (found == client.seats.end())
    return Error(Code::invalid, "seat " + std::to_string(seat.value) + " is not held by this client");
  auto seated = std::move(found->second);
  const GroupPtr state = seated.group;
  client.seats.erase(found);
  std::size_t left = effort_of_turn;
  if (lose_seat(seat, std::move(seated), loss, left, now) == AfterLoss::tell) tell_members(state);
  return {};
}

/// Most often at once. Many seats are lost one by one, and others have their turns in between.
void Node::lose_all_seats(Client& client, const Loss& loss, TimePoint now) {
  if (client.seats.empty()) return;
  leaving_.push_back({std::move(client.seats), loss, {}});
  client.seats.clear();
  const auto own = std::prev(leaving_.end());
  if (lose_some(*own, now)) leaving_.erase(own);
}

void Node::lose_more(TimePoint now) {
  if (leaving_.empty()) return;
  const auto first = leaving_.begin();
  if (lose_some(*first, now)) leaving_.erase(first);
  else leaving_.splice(leaving_.end(), leaving_, first);
}

/// The seat of a client that is gone, which somebody else wants to take already. False if there is none.
bool Node::lose_before_its_turn(const GroupPtr& state, int rank) {
  const auto held = state->group.seats().find(rank);
  if (held == state->group.seats().end()) return false;
  for (auto& leaving : leaving_) {
    auto seat = leaving.seats.extract(held->second.id);
    if (seat.empty()) continue;
    std::size_t left = effort_of_turn;
    if (lose_seat(seat.key(), std::move(seat.mapped()), leaving.loss, left, now_) == AfterLoss::tell)
      leaving.to_tell.try_emplace(state, 0);
    return true;
  }
  return false;
}

/// True if none is left. A client may hold all seats of a large group: its members are told once, and not for each.
bool Node::lose_some(Leaving& leaving, TimePoint now) {
  constexpr std::size_t effort_of_seat = 8;
  std::size_t left = effort_of_turn;
  while (!leaving.seats.empty() && left > 0) {
    left -= std::min(left, effort_of_seat);
    auto seat = leaving.seats.extract(leaving.seats.begin());
    const GroupPtr state = seat.mapped().group;
    if (lose_seat(seat.key(), std::move(seat.mapped()), leaving.loss, left, now) == AfterLoss::tell)
      leaving.to_tell.try_emplace(state, 0);
  }
  if (!leaving.seats.empty()) return false;
  while (!leaving.to_tell.empty() && left > 0) {
    const auto first = leaving.to_tell.begin();
    auto& [state, next_rank] = *first;
    next_rank = tell_members(state, next_rank, left);
    if (next_rank == state->group.settings().world_size) leaving.to_tell.erase(first);
  }
  return leaving.to_tell.empty();
}

Node::AfterLoss Node::lose_seat(SeatId seat, Client::Seated seated, const Loss& loss, std::size_t& left,
                                TimePoint now) {
  const auto& [state, rank, charge] = seated;
  withdraw_waiting(state, rank, left, now);
  const auto lost = state->group.lose(seat);
  state->results.clear();
  if (lost == Group::Lost::newcomer) {
    if (state->group.empty()) remove_group(state);
    return AfterLoss::silence;
  }
  state->lost.insert_or_assign(rank, std::move(seated.charge));
  const auto epoch = state->group.epoch();
  perform(state, lose_by_policy(*state, rank, loss, left), now);
  // The loss may have completed a reform: then the newcomers are members already, and told so.
  if (state->group.epoch() != epoch) {
    if (state->group.empty()) remove_group(state);
    return AfterLoss::silence;
  }
  if (lost == Group::Lost::member) {
    settle_own(state, left, now);
    return AfterLoss::tell;
  }
  const Error why(Code::peer_lost, "every rank of the group is gone");
  if (!state->group.newcomers().empty()) {
    begin_epoch(state, why, now);
    return AfterLoss::silence;
  }
  remove_group(state);
  settle(end_epoch(state, why, {}), left, now);
  return AfterLoss::silence;
}

std::vector<Action> Node::lose_by_policy(GroupState& state, int rank, const Loss& loss, std::size_t& left) {
  std::vector<Action> actions;
  switch (state.group.settings().on_loss) {
    case OnLoss::fail: state.muster.lose(rank, loss, actions, left); break;
    case OnLoss::shrink: state.muster.shrink(rank, loss, actions, left); break;
    case OnLoss::wait: state.muster.vacate(rank, loss, actions, left); break;
  }
  return actions;
}

/// What the rank called too early, or what waits for its turn since its epoch began, has no place in any order yet.
void Node::withdraw_waiting(const GroupPtr& state, int rank, std::size_t& left, TimePoint now) {
  for (auto* waiting : {&state->early, &state->coming}) {
    auto own = waiting->extract(rank);
    if (own.empty()) continue;
    const Error why(Code::group_closed, "rank " + std::to_string(rank) + " left group '" +
                                            state->group.settings().name + "' before its op began");
    settle({state, nullptr, std::move(own.mapped().ops), why}, left, now);
  }
}

/// What is left to do for the running epoch: ops learn of losses, and those that were called early take their places.
void Node::settle_own(const GroupPtr& state, std::size_t& left, TimePoint now) {
  if (state->settles || state->is_settled()) return;
  state->settles = true;
  settle({state, nullptr, {}, std::nullopt}, left, now);
}

/// As much as there is time for, and the rest in turn with others.
void Node::settle(Unsettled unsettled, std::size_t& left, TimePoint now) {
  unsettled_.push_back(std::move(unsettled));
  const auto own = std::prev(unsettled_.end());
  if (settle_some(*own, left, now)) unsettled_.erase(own);
}

void Node::settle_more(TimePoint now) {
  if (unsettled_.empty()) return;
  std::size_t left = effort_of_turn;
  const auto first = unsettled_.begin();
  if (settle_some(*first, left, now)) unsettled_.erase(first);
  else unsettled_.splice(unsettled_.end(), unsettled_, first);
}

/// True if none is left.
bool Node::settle_some(Unsettled& unsettled, std::size_t& left, TimePoint now) {
  auto& [state, ended, withdrawn, why] = unsettled;
  if (!why) {
    std::vector<Action> actions;
    state->muster.catch_up(actions, left);
    perform(state, std::move(actions), now);
    while (left > 0 && !state->coming.empty()) take_place(state, left, now);
    state->settles = !state->is_settled();
    return !state->settles;
  }
  for (; left > 0 && !withdrawn.empty(); --left) {
    settle_failed(withdrawn.front().ticket, *why);
    withdrawn.pop_front();
  }
  if (!ended) return withdrawn.empty();
  std::vector<Action> actions;
  ended->dissolve(*why, actions, left);
  perform(state, std::move(actions), now);
  return withdrawn.empty() && ended->empty();
}

/// The next of those that were called before they could be.
void Node::take_place(const GroupPtr& state, std::size_t& left, TimePoint now) {
  constexpr std::size_t effort_of_contribution = 2;
  left -= std::min(left, effort_of_contribution);
  const auto first = state->coming.begin();
  auto& [ops, early] = first->second;
  Contribution contribution = std::move(ops.front());
  ops.pop_front();
  const bool was_early = early > 0;
  if (was_early) --early;
  if (ops.empty()) state->coming.erase(first);
  // A newcomer's reform asked for what has happened.
  if (was_early && contribution.kind == ipc::Kind::reform) return settle_done(contribution.ticket, epoch_of(*state));
  muster(state, std::move(contribution), now);
}

ipc::Done Node::epoch_of(const GroupState& state) {
  ipc::Done done;
  done.epoch = state.group.epoch();
  for (const int rank : state.group.live()) done.live.push_back(rank);
  return done;
}

/// The ops of the epoch that is over, which nobody comes to any more; the group has none from here on.
Node::Unsettled Node::end_epoch(const GroupPtr& state, Error why, std::span<const int> next_members) const {
  Muster next(state->group.settings().world_size, next_members, muster_limits(), state->group.epoch());
  auto ended = std::make_unique<Muster>(std::move(state->muster));
  state->muster = std::move(next);
  return {state, std::move(ended), {}, std::move(why)};
}

void Node::begin_epoch(const GroupPtr& state, Error why, TimePoint now) {
  state->group.begin_epoch();
  state->lost.clear();
  state->results.clear();
  std::size_t left = effort_of_turn;
  auto ended = end_epoch(state, why, state->group.members());
  // What newcomers called behind the reform that ends the epoch had no place in it yet.
  auto behind = std::exchange(state->coming, std::exchange(state->early, {}));
  for (auto& [rank, queue] : state->coming) queue.early = queue.ops.size();
  settle(std::move(ended), left, now);
  for (auto& [rank, queue] : behind) settle({state, nullptr, std::move(queue.ops), why}, left, now);
  tell_members(state);
  settle_own(state, left, now);
}

}  // namespace musterd
