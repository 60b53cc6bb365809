// Seats: who takes one, and what a rank owes that takes over a lost seat.
#include <algorithm>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>

#include "session/frame_builder.hpp"
#include "session/group_ops.hpp"
#include "session/turn.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::OnLoss;
using muster::Result;
namespace ipc = muster::ipc;

/// Refuses a rank that would take over a lost seat and owe too many ops, as one frame must tell it what it owes.
Result<void> GroupOps::check_owed(const GroupState& state, int rank) {
  constexpr std::size_t owed_bytes_max = std::size_t{1} << 20;
  const auto& settings = state.group.settings();
  const auto lost = state.group.lost();
  if (settings.on_loss != OnLoss::wait || !std::binary_search(lost.begin(), lost.end(), rank)) return {};
  const std::size_t bytes = state.muster->owed_bytes(rank);
  if (bytes <= owed_bytes_max) return {};
  return Error(Code::quota_exceeded,
               fmt::format("rank {} of group '{}' owes so many ops that their names take {}", rank, settings.name,
                           ipc::over_text(bytes, owed_bytes_max)),
               "join when their deadlines have passed, and use shorter keys", {rank});
}

/// Adds to the error which process has the seat.
Error GroupOps::with_holder(const Error& error, const Client& asks, const std::optional<Seat>& taken) const {
  const Client* holder = taken ? parts_.clients.find(taken->client) : nullptr;
  if (!holder || error.code() != Code::invalid) return error;
  if (holder->credentials.pid == asks.credentials.pid)
    return {error.code(), error.message() + ": this one, which joined before",
            "use the group that it has, or leave() it first", error.ranks()};
  return {error.code(), fmt::format("{}: {}", error.message(), parts_.clients.process_text(*holder)), error.hint(),
          error.ranks()};
}

void GroupOps::join(Client& client, std::uint64_t request, Group::Settings settings, int rank) {
  if (auto room = parts_.table.check_seats(client, 1); !room)
    return parts_.teller.reply_error(client.id, request, room.error());
  auto charge = parts_.table.charge_seat(client.payer());
  if (!charge) return parts_.teller.reply_error(client.id, request, charge.error());
  auto known = parts_.table.find(settings);
  if (known && lose_before_its_turn(known, rank)) known = parts_.table.find(settings);
  auto state = known ? Result<GroupPtr>(std::move(known)) : parts_.table.make(settings, client.payer());
  if (!state) return parts_.teller.reply_error(client.id, request, state.error());
  GroupState& found = **state;
  // Removes a new group again if the client does not take a seat in it.
  struct Kept {
    GroupTable& table;
    const GroupPtr& state;
    ~Kept() {
      if (state->group.empty()) table.remove(state);
    }
  } const kept_if_taken{parts_.table, *state};
  if (auto few = check_owed(found, rank); !few) return parts_.teller.reply_error(client.id, request, few.error());
  const Seat seat{parts_.table.next_seat(&client, found.group), client.id, rank};
  auto held = GroupTable::make_seat(client, seat.id, {*state, rank, std::move(*charge), {}});
  auto joined = found.group.join(settings, seat);
  if (!joined)
    return parts_.teller.reply_error(client.id, request, with_holder(joined.error(), client, found.group.holder(rank)));
  client.seats.insert(std::move(held));
  found.results.clear();
  reply_joined(client, request, found, seat, *joined);
  if (*joined != Group::Joined::replacement) return;
  // If a round of tellings is running already, that one is enough.
  std::size_t left = found.tells() ? 0 : effort_of_turn;
  news_.tell(found, left);
}

/// Tells the client where its seat stands, and what a replacement owes.
void GroupOps::reply_joined(Client& client, std::uint64_t request, GroupState& state, const Seat& seat,
                            Group::Joined joined) {
  FrameBuilder out(request);
  const bool newcomer = joined == Group::Joined::newcomer;
  std::vector<flatbuffers::Offset<wire::Owed>> owes;
  std::uint64_t position = 0;
  if (joined == Group::Joined::replacement) {
    state.muster->reoccupy(seat.rank);
    state.lost.erase(seat.rank);
    for (const auto& owed : state.muster->owed(seat.rank))
      owes.push_back(wire::CreateOwed(out.fbb, owed.sequence, out.fbb.CreateString(owed.key),
                                      static_cast<std::uint8_t>(owed.kind)));
  }
  if (!newcomer) position = state.muster->position(seat.rank);
  const auto& kept = state.group.settings();
  auto timeout_ms = std::chrono::duration_cast<std::chrono::milliseconds>(kept.timeout).count();
  auto body =
      wire::CreateJoined(out.fbb, seat.id.value, state.group.epoch() + (newcomer ? 1 : 0), position,
                         out.fbb.CreateVector(state.group.live()), out.fbb.CreateVector(owes),
                         static_cast<std::uint8_t>(kept.on_loss), static_cast<std::uint32_t>(timeout_ms), !newcomer);
  parts_.teller.reply(client.id, out.finish(wire::Body_Joined, body.Union()), {});
}

}  // namespace musterd
