#include "session/group_news.hpp"

#include <algorithm>

#include "session/turn.hpp"

namespace musterd {

namespace ipc = muster::ipc;

namespace {

ipc::GroupChanged change_of(const GroupState& state) {
  ipc::GroupChanged changed;
  changed.epoch = state.group.epoch();
  changed.live = state.group.live();
  changed.lost = state.group.lost();
  return changed;
}

}  // namespace

void GroupNews::note(GroupState& state, UntoldGroups& among) noexcept {
  state.untold_ranks = state.group.settings().world_size;
  if (!state.tells()) among.push_back(state);
}

void GroupNews::tell(GroupState& state, std::size_t& left) noexcept {
  note(state, untold_);
  if (tell_some(state, left)) state.UntoldHook::unlink();
}

void GroupNews::tell(UntoldGroups& groups, std::size_t& left) noexcept {
  tell_some(groups, left);
  untold_.splice(untold_.end(), groups);
}

void GroupNews::go_on() noexcept {
  std::size_t left = effort_of_turn;
  tell_some(untold_, left);
  // Groups take turns, so this one goes to the end.
  if (!untold_.empty()) untold_.splice(untold_.end(), untold_, untold_.begin());
}

void GroupNews::tell_some(UntoldGroups& untold, std::size_t& left) noexcept {
  while (!untold.empty() && tell_some(untold.front(), left)) untold.pop_front();
}

/// Tells as many members as there is time for. True if none is left.
bool GroupNews::tell_some(GroupState& state, std::size_t& left) noexcept {
  constexpr std::size_t effort_of_record = 2;
  constexpr std::size_t ranks_each = 512;  ///< ranks named by a record
  if (left == 0) return false;
  std::optional<ipc::GroupChanged> changed;
  std::vector<std::byte> body;
  clients_.guarded([&] { changed = change_of(state); });
  const std::size_t named = changed ? changed->live.size() + changed->lost.size() : 0;
  const std::size_t effort = effort_of_record + named / ranks_each;
  const auto& seats = state.group.seats();
  const int world_size = state.group.settings().world_size;
  while (left > 0 && state.untold_ranks > 0) {
    const auto next = seats.lower_bound(state.next_to_tell);
    const bool wraps = next == seats.end();
    const int after = wraps ? world_size : next->first + 1;
    const bool is_due = !wraps && next->first - state.next_to_tell < state.untold_ranks;
    state.untold_ranks -= std::min(state.untold_ranks, after - state.next_to_tell);
    state.next_to_tell = after == world_size ? 0 : after;
    left -= std::min(left, effort);
    if (is_due) tell_member(next->second, changed, body);
  }
  return state.untold_ranks == 0;
}

/// `changed` is empty if there was no memory for it.
void GroupNews::tell_member(const Seat& seat, std::optional<ipc::GroupChanged>& changed,
                            std::vector<std::byte>& body) noexcept {
  // A client that is being forgotten may hold more seats, which it loses next.
  if (!clients_.find(seat.client)) return;
  if (!changed) return clients_.doom(seat.client);
  changed->seat = seat.id;
  clients_.guarded(
      [&] {
        body.clear();
        ipc::write(*changed, body);
        outside_.complete(seat.client, ipc::CompletionType::group_changed, body);
      },
      seat.client);
}

}  // namespace musterd
