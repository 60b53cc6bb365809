#include "session/group_table.hpp"

#include <fmt/format.h>

#include "base/assert.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

GroupPtr GroupTable::find(Group::Settings settings) const {
  // This also finds a group of the same user and name with the other `open`, as that group has to refuse the join.
  const bool open = settings.open;
  for (const bool is_open : {open, !open})
    for (const bool made : {false, true}) {
      settings.open = is_open;
      settings.made = made;
      const auto found = groups_.find(key_of(settings));
      if (found == groups_.end()) continue;
      if (is_open == open || found->second->group.settings().user == settings.user) return found->second;
    }
  return nullptr;
}

Result<GroupPtr> GroupTable::make(Group::Settings settings, Payer maker) {
  constexpr std::uint64_t nodes_bytes = 768;  // of maps, tables and what malloc adds
  constexpr std::uint64_t each_seat = Muster::seat_bytes + sizeof(int);
  const std::uint64_t heap = sizeof(GroupState) + sizeof(Muster) + nodes_bytes + 2 * settings.name.size() +
                             static_cast<std::uint64_t>(settings.world_size) * each_seat;
  auto charge = ledger_.charge(maker, Resource::groups, 1, heap);
  if (!charge) return charge.error();
  auto state = std::make_shared<GroupState>(std::move(settings), limits_.muster, std::move(*charge));
  const auto key = key_of(state->group.settings());
  MUSTER_ASSERT(groups_.emplace(key, state).second, "a group is made where there is none");
  return state;
}

void GroupTable::remove(const GroupPtr& state) {
  const auto found = groups_.find(key_of(state->group.settings()));
  if (found != groups_.end() && found->second == state) groups_.erase(found);
  unwatch(*state);
}

Result<void> GroupTable::check_seats(const Client& client, std::size_t more) const {
  if (client.seats.size() + more <= limits_.seats_max) return {};
  return Error(Code::quota_exceeded,
               fmt::format("this client has {} of at most {} seats", client.seats.size(), limits_.seats_max),
               "leave() groups that are not needed");
}

Result<Charge> GroupTable::charge_seat(Payer payer) {
  constexpr std::uint64_t nodes_bytes = 320;  // of the maps that have the seat, with what malloc adds
  return ledger_.charge(payer, Resource::heap, sizeof(Seat) + sizeof(Client::Seated) + nodes_bytes);
}

Client::Seats::node_type GroupTable::make_seat(Client& client, SeatId seat, Client::Seated seated) {
  client.seats.reserve(client.seats.size() + 1);
  Client::Seats made;
  made.emplace(seat, std::move(seated));
  return made.extract(made.begin());
}

void GroupTable::watch(GroupState& state, std::optional<TimePoint> deadline) {
  const bool watched = state.GroupByDeadline::is_linked();
  if (!deadline || (watched && state.watched <= *deadline)) return;
  if (watched) state.GroupByDeadline::unlink();
  state.watched = *deadline;
  by_deadline_.insert(state);
}

void GroupTable::unwatch(GroupState& state) {
  if (state.GroupByDeadline::is_linked()) state.GroupByDeadline::unlink();
}

GroupPtr GroupTable::first_due(TimePoint now) {
  if (by_deadline_.empty() || by_deadline_.begin()->watched > now) return nullptr;
  return by_deadline_.begin()->shared_from_this();
}

std::optional<TimePoint> GroupTable::next_deadline() const {
  if (by_deadline_.empty()) return std::nullopt;
  return by_deadline_.begin()->watched;
}

SeatId GroupTable::next_seat(const Client* client, const Group& group) {
  // Looking takes long, and until the numbers come around none is taken.
  const auto is_taken = [&](SeatId seat) {
    return numbers_repeat_ && (group.has(seat) || (client && client->seats.contains(seat)));
  };
  do {
    if (++last_seat_ == 0) numbers_repeat_ = true;
  } while (last_seat_ == 0 || is_taken({last_seat_}));
  return {last_seat_};
}

}  // namespace musterd
