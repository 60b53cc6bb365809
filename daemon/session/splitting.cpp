// Ops that change the groups themselves: splits and reforms.
#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>

#include "base/assert.hpp"
#include "session/group_ops.hpp"
#include "session/node_settings.hpp"
#include "session/turn.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

void GroupOps::reform(const GroupPtr& state, const Op& op, std::uint32_t next_epoch, TimePoint now) {
  // A loss may have completed an earlier reform, which did all that this one asks for.
  if (state->muster->is_own(op.id)) {
    if (next_epoch > Group::epoch_max)
      return parts_.runs.fail(
          state.get(), op,
          Error(Code::quota_exceeded,
                fmt::format("group '{}' has had {} epochs", state->group.settings().name, Group::epoch_max),
                "use another group name"));
    auto next = prepare_epoch(state, next_epoch,
                              Error(Code::peer_lost, "the group was reformed while the op was pending",
                                    "start the op again in the new epoch", state->group.lost()));
    begin_epoch(state, std::move(next), now);
  }
  std::optional<ipc::Done> done;
  parts_.clients.guarded([&] { done = epoch_of(*state); });
  for (const auto& contribution : op.contributions) {
    if (done) parts_.works.settle_done(contribution.ticket, *done);
    else parts_.works.cut_off(contribution.ticket);
  }
}

/// The members of each new group. Refused if a client would have too many seats.
Result<std::map<int, std::vector<const Contribution*>>> GroupOps::members_by_color(const Op& op) const {
  std::map<int, std::vector<const Contribution*>> colors;
  std::map<ClientId, std::size_t> seats;
  for (const auto& contribution : op.contributions) {
    if (contribution.root < 0) continue;
    colors[contribution.root].push_back(&contribution);
    ++seats[parts_.works.at(contribution.ticket).client];
  }
  for (const auto& [id, more] : seats) {
    const Client* client = parts_.clients.find(id);
    if (!client) continue;
    if (auto room = parts_.table.check_seats(*client, more); !room) return room.error();
  }
  return colors;
}

Result<std::vector<GroupOps::Child>> GroupOps::make_children(const Group::Settings& parent, const Op& op) {
  auto colors = members_by_color(op);
  if (!colors) return colors.error();
  // The number is not the parent's epoch and op, as a group that is made again under the same name would count from one
  // again.
  const auto number = ++last_split_;
  // Removes groups that nobody takes a seat in.
  struct Children {
    GroupTable& table;
    std::vector<Child> made{};
    ~Children() {
      for (const auto& child : made) table.remove(child.group);
    }
  } children{parts_.table};
  children.made.reserve(colors->size());
  for (auto& [color, members] : *colors) {
    std::stable_sort(members.begin(), members.end(), [](const auto* a, const auto* b) {
      return std::pair(a->tag, a->rank) < std::pair(b->tag, b->rank);
    });
    Group::Settings settings = parent;
    settings.made = true;
    settings.name += fmt::format("/{}:{}", number, color);
    settings.world_size = static_cast<int>(members.size());
    if (settings.name.size() > name_bytes_max)
      return Error(Code::invalid,
                   "the new group's name would have " + ipc::over_text(settings.name.size(), name_bytes_max),
                   "use shorter names, or split the first group instead of its parts");
    // The parent's maker does not pay: otherwise members of other users could make any number of groups at its cost.
    auto group = parts_.table.make(std::move(settings), payer_of(*members.front()));
    if (!group) return group.error();
    Child& child = children.made.emplace_back(Child{std::move(*group), std::move(members), {}});
    for (const auto* member : child.members) {
      auto seat = parts_.table.charge_seat(payer_of(*member));
      if (!seat) return seat.error();
      child.seats.push_back(std::move(*seat));
    }
  }
  return std::exchange(children.made, {});
}

void GroupOps::split(const GroupPtr& state, const Op& op) {
  auto children = make_children(state->group.settings(), op);
  if (!children) return parts_.runs.fail(state.get(), op, children.error());
  try {
    seat_in_children(*children, op);
  } catch (const std::exception&) {
    // Some members know of their seats already, but the others will not come.
    for (const auto& [child, members, seats] : *children) {
      for (const auto& [rank, seat] : child->group.seats()) parts_.clients.doom(seat.client);
      if (child->group.empty()) parts_.table.remove(child);
    }
    for (const auto& contribution : op.contributions) parts_.works.cut_off(contribution.ticket);
  }
}

void GroupOps::seat_in_children(std::vector<Child>& children, const Op& op) {
  std::size_t left = effort_of_turn;
  for (auto& [child, members, seats] : children) {
    for (std::size_t rank = 0; rank < members.size(); ++rank)
      seat_in_child(child, *members[rank], static_cast<int>(rank), std::move(seats[rank]));
    if (child->group.empty()) parts_.table.remove(child);
    else if (!child->group.lost().empty()) news_.tell(*child, left);
  }
  for (const auto& contribution : op.contributions)
    if (contribution.root < 0) parts_.works.settle_done(contribution.ticket, {});
}

void GroupOps::seat_in_child(const GroupPtr& child, const Contribution& contribution, int rank, Charge charge) {
  Client* client = parts_.works.waiting(contribution.ticket);
  const Seat seat{parts_.table.next_seat(client, child->group), client ? client->id : ClientId{}, rank};
  const auto join_child = [&] {
    MUSTER_ASSERT(child->group.join(child->group.settings(), seat), "a new group has room for its ranks");
  };
  if (!client) {
    // The client contributed and then died, so its seat in the new group is lost from the start.
    join_child();
    parts_.works.erase(contribution.ticket);
    static_cast<void>(child->group.lose(seat.id));
    child->lost.insert_or_assign(rank, std::move(charge));
    std::size_t left = 1;
    MUSTER_ASSERT(lose_by_policy(*child, rank, {"died", {}}, left).empty(), "a new group has no ops");
    return;
  }
  auto held = GroupTable::make_seat(*client, seat.id, {child, rank, std::move(charge), {}});
  join_child();
  client->seats.insert(std::move(held));
  ipc::Done done;
  done.seat = seat.id;
  done.rank = rank;
  done.world_size = child->group.settings().world_size;
  done.name = child->group.settings().name;
  done.epoch = child->group.epoch();
  for (int live = 0; live < done.world_size; ++live) done.live.push_back(live);
  parts_.works.settle_done(contribution.ticket, done);
}

}  // namespace musterd
