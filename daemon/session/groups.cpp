// Groups and their seats: joining, deadlines, reforms and splits.
#include <algorithm>

#include <muster/ipc/byte_count.hpp>

#include "base/assert.hpp"
#include "session/frame_builder.hpp"
#include "session/node.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::OnLoss;
using muster::Result;
namespace ipc = muster::ipc;

/// The group that a process means by a name: first what processes named so, then what a split did.
GroupPtr Node::find_group(Group::Settings settings) const {
  // A group of the same user and name that is open where this is not, or the other way round, will refuse the join.
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

Result<GroupPtr> Node::make_group(Group::Settings settings, Payer maker) {
  constexpr std::uint64_t nodes_bytes = 768;  // of maps, tables and what malloc adds
  constexpr std::uint64_t each_seat = Muster::seat_bytes + sizeof(int);
  const std::uint64_t heap = sizeof(GroupState) + sizeof(Muster) + nodes_bytes + 2 * settings.name.size() +
                             static_cast<std::uint64_t>(settings.world_size) * each_seat;
  auto charge = ledger_.charge(maker, Resource::groups, 1, heap);
  if (!charge) return charge.error();
  auto state = std::make_shared<GroupState>(std::move(settings), muster_limits(), std::move(*charge));
  const auto key = key_of(state->group.settings());
  MUSTER_ASSERT(groups_.emplace(key, state).second, "a group is made where there is none");
  return state;
}

Result<void> Node::check_seats(const Client& client, std::size_t more) const {
  if (client.seats.size() + more <= settings_.seats_max) return {};
  return Error(Code::quota_exceeded,
               "this client has " + std::to_string(client.seats.size()) + " of at most " +
                   std::to_string(settings_.seats_max) + " seats",
               "leave() groups that are not needed");
}

/// A seat, or what is known of it once it is lost.
Result<Charge> Node::charge_seat(Payer payer) {
  constexpr std::uint64_t nodes_bytes = 320;  // of the maps that know it, with what malloc adds
  return ledger_.charge(payer, Resource::heap, sizeof(Seat) + sizeof(Client::Seated) + nodes_bytes);
}

/// What a seat of the client takes, and room for it among the others: to put it there can't fail.
Client::Seats::node_type Node::make_seat(Client& client, SeatId seat, Client::Seated seated) {
  client.seats.reserve(client.seats.size() + 1);
  Client::Seats made;
  made.emplace(seat, std::move(seated));
  return made.extract(made.begin());
}

Muster::Limits Node::muster_limits() const {
  // The client keeps to in_flight_max; twice that is room for threads that race, and more is a lie.
  return {.in_flight_max = std::size_t{2} * settings_.in_flight_max, .history_max = 4096};
}

/// A rank that takes a lost seat over is told in one frame what it owes.
Result<void> Node::check_owed(const GroupState& state, int rank) {
  constexpr std::size_t owed_bytes_max = std::size_t{1} << 20;
  const auto& settings = state.group.settings();
  const auto lost = state.group.lost();
  if (settings.on_loss != OnLoss::wait || !std::binary_search(lost.begin(), lost.end(), rank)) return {};
  const std::size_t bytes = state.muster->owed_bytes(rank);
  if (bytes <= owed_bytes_max) return {};
  return Error(Code::quota_exceeded,
               "rank " + std::to_string(rank) + " of group '" + settings.name +
                   "' owes so many ops that their names take " + ipc::over_text(bytes, owed_bytes_max),
               "join when their deadlines have passed, and use shorter keys", {rank});
}

/// Says whose the seat is that is taken.
Error Node::with_holder(const Error& error, const Client& asks, const std::optional<Seat>& taken) const {
  const Client* holder = taken ? clients_.find(taken->client) : nullptr;
  if (!holder || error.code() != Code::invalid) return error;
  if (holder->credentials.pid == asks.credentials.pid)
    return {error.code(), error.message() + ": this one, which joined before",
            "use the group that it has, or leave() it first", error.ranks()};
  return {error.code(), error.message() + ": " + clients_.process_text(*holder), error.hint(), error.ranks()};
}

void Node::join(Client& client, std::uint64_t request, Group::Settings settings, int rank) {
  if (auto room = check_seats(client, 1); !room) return teller_.reply_error(client.id, request, room.error());
  auto charge = charge_seat(client.payer());
  if (!charge) return teller_.reply_error(client.id, request, charge.error());
  auto known = find_group(settings);
  if (known && lose_before_its_turn(known, rank)) known = find_group(settings);
  auto state = known ? Result<GroupPtr>(std::move(known)) : make_group(settings, client.payer());
  if (!state) return teller_.reply_error(client.id, request, state.error());
  GroupState& found = **state;
  // If it is new it goes again, unless the client takes a seat of it.
  struct Kept {
    Node& node;
    const GroupPtr& state;
    ~Kept() {
      if (state->group.empty()) node.remove_group(state);
    }
  } const kept_if_taken{*this, *state};
  if (auto few = check_owed(found, rank); !few) return teller_.reply_error(client.id, request, few.error());
  const Seat seat{{++last_seat_}, client.id, rank};
  auto held = make_seat(client, seat.id, {*state, rank, std::move(*charge), {}});
  auto telling = members_to_tell(*state);
  auto joined = found.group.join(settings, seat);
  if (!joined)
    return teller_.reply_error(client.id, request, with_holder(joined.error(), client, found.group.holder(rank)));
  client.seats.insert(std::move(held));
  found.results.clear();

  FrameBuilder out(request);
  const bool newcomer = *joined == Group::Joined::newcomer;
  std::vector<flatbuffers::Offset<wire::Owed>> owes;
  std::uint64_t position = 0;
  if (*joined == Group::Joined::replacement) {
    found.muster->reoccupy(rank);
    found.lost.erase(rank);
    for (const auto& owed : found.muster->owed(rank))
      owes.push_back(wire::CreateOwed(out.fbb, owed.sequence, out.fbb.CreateString(owed.key),
                                      static_cast<std::uint8_t>(owed.kind)));
  }
  if (!newcomer) position = found.muster->position(rank);
  const auto& kept = found.group.settings();
  auto timeout_ms = std::chrono::duration_cast<std::chrono::milliseconds>(kept.timeout).count();
  auto body =
      wire::CreateJoined(out.fbb, seat.id.value, found.group.epoch() + (newcomer ? 1 : 0), position,
                         out.fbb.CreateVector(found.group.live()), out.fbb.CreateVector(owes),
                         static_cast<std::uint8_t>(kept.on_loss), static_cast<std::uint32_t>(timeout_ms), !newcomer);
  teller_.reply(client.id, out.finish(wire::Body_Joined, body.Union()), {});
  if (*joined == Group::Joined::replacement) tell_members(std::move(telling), now_);
}

void Node::watch(GroupState& state, std::optional<TimePoint> deadline) {
  const bool watched = state.GroupByDeadline::is_linked();
  if (!deadline || (watched && state.watched <= *deadline)) return;
  if (watched) state.GroupByDeadline::unlink();
  state.watched = *deadline;
  group_deadlines_.insert(state);
}

Whereabouts Node::locate(const GroupState& state, int rank, std::size_t& looks_left) const {
  const auto seat = state.group.holder(rank);
  const Client* holder = seat ? clients_.find(seat->client) : nullptr;
  if (!holder) return {};
  Whereabouts found;
  found.process = clients_.process_text(*holder);
  found.waits_for_memory = admission_.has_waiting(holder->id);
  if (looks_left > 0 && holder->credentials.pid != 0) {
    --looks_left;
    found.stopped = outside_.is_stopped(holder->credentials.pid);
  }
  return found;
}

/// The deadlines of many ops may pass at once: some now, and the rest at the next tick.
void Node::expire_groups(TimePoint now) {
  std::size_t left = effort_of_turn;
  std::size_t looks_left = 8;  // at what the kernel says of a process
  while (left > 0 && !group_deadlines_.empty() && group_deadlines_.begin()->watched <= now) {
    const GroupPtr state = group_deadlines_.begin()->shared_from_this();
    if (state->settles()) {
      // That comes first, and goes on already.
      constexpr Duration a_moment = std::chrono::milliseconds(1);
      state->GroupByDeadline::unlink();
      watch(*state, now + a_moment);
      continue;
    }
    decide(state, now, [&](auto& actions) {
      state->muster->expire(now, actions, left, [&](int rank) { return locate(*state, rank, looks_left); });
    });
    expire_early(state, now, left);
    // From here on it is looked at for what is left. One that has ended meanwhile has nothing.
    if (state->GroupByDeadline::is_linked()) state->GroupByDeadline::unlink();
    watch(*state, state->muster->next_deadline());
    for (const auto& [rank, queue] : state->early)
      for (const auto& contribution : queue.ops)
        if (contribution.deadline != TimePoint::max()) watch(*state, contribution.deadline);
  }
}

void Node::expire_early(const GroupPtr& state, TimePoint now, std::size_t& left) {
  std::vector<int> members;
  for (const auto& [rank, seat] : state->group.seats()) members.push_back(rank);
  for (auto& [rank, queue] : state->early) {
    for (auto& contribution : queue.ops) {
      if (left == 0) break;
      if (contribution.deadline > now) continue;
      --left;
      expire_early(*state, contribution, members);
    }
    // A reform is not matched by order.
    std::erase_if(queue.ops, [&](const Contribution& contribution) {
      const bool over = contribution.kind == ipc::Kind::reform && works_.at(contribution.ticket).told;
      if (over) works_.erase(contribution.ticket);
      return over;
    });
  }
  std::erase_if(state->early, [](const auto& entry) { return entry.second.ops.empty(); });
}

void Node::expire_early(GroupState& state, Contribution& contribution, const std::vector<int>& members) {
  const Error error(Code::timeout,
                    "rank " + std::to_string(contribution.rank) + " joined group '" + state.group.settings().name +
                        "' after a loss and still waits for the other ranks to reform it",
                    "call reform() on every live rank", members);
  // The others are told in few words: what waits here was charged for few.
  auto fault = std::make_shared<Error>(error.code(), error.message(), error.hint());
  ++counts_.ops_failed;
  ++state.ops_failed;
  auto& pending = works_.at(contribution.ticket);
  if (clients_.find(pending.client)) teller_.fail_work(pending.client, pending.work, error);
  // It keeps its place in the epoch to come, or the rank's next op would be taken for this one.
  pending.told = true;
  contribution.deadline = TimePoint::max();
  contribution.inputs = {};
  contribution.fault = std::move(fault);
}

void Node::remove_group(const GroupPtr& state) {
  const auto found = groups_.find(key_of(state->group.settings()));
  if (found != groups_.end() && found->second == state) groups_.erase(found);
  if (state->GroupByDeadline::is_linked()) state->GroupByDeadline::unlink();
}

Node::LeavingNode Node::members_to_tell(const GroupPtr& state) {
  LeavingNode telling(1);
  telling.front().to_tell.emplace(state, 0);
  return telling;
}

/// The first ones now, and the others in turn with what others do.
void Node::tell_members(LeavingNode telling, TimePoint now) noexcept {
  const auto own = telling.begin();
  leaving_.splice(leaving_.end(), telling);
  clients_.guarded([&] {
    if (lose_some(*own, now)) leaving_.erase(own);
  });
}

/// From that rank on, for as long as there is time; returns the rank to go on with, world_size after the last.
int Node::tell_members(const GroupPtr& state, int first, std::size_t& left) noexcept {
  constexpr std::size_t effort_of_record = 2;
  constexpr std::size_t ranks_each = 512;  ///< that a record names
  std::optional<ipc::GroupChanged> changed;
  std::vector<std::byte> body;
  clients_.guarded([&] { changed = change_of(*state); });
  const std::size_t named = changed ? changed->live.size() + changed->lost.size() : 0;
  const std::size_t effort = effort_of_record + named / ranks_each;
  const auto& seats = state->group.seats();
  for (auto next = seats.lower_bound(first); next != seats.end(); ++next) {
    const auto& [rank, seat] = *next;
    if (left == 0) return rank;
    left -= std::min(left, effort);
    // One that is being forgotten may hold more seats, which it loses next.
    if (!clients_.find(seat.client)) continue;
    if (!changed) {
      clients_.doom(seat.client);
      continue;
    }
    changed->seat = seat.id;
    clients_.guarded(
        [&, client = seat.client] {
          body.clear();
          ipc::write(*changed, body);
          outside_.complete(client, ipc::CompletionType::group_changed, body);
        },
        seat.client);
  }
  return state->group.settings().world_size;
}

ipc::GroupChanged Node::change_of(const GroupState& state) {
  ipc::GroupChanged changed;
  changed.epoch = state.group.epoch();
  changed.live = state.group.live();
  changed.lost = state.group.lost();
  return changed;
}

void Node::reform(const GroupPtr& state, const Op& op, TimePoint now) {
  // A loss may have completed another one before, which was all that this one asked for.
  if (state->muster->is_own(op.id)) {
    auto next = prepare_epoch(state, Error(Code::peer_lost, "the group was reformed while the op was pending",
                                           "start the op again in the new epoch", state->group.lost()));
    begin_epoch(state, std::move(next), now);
  }
  std::optional<ipc::Done> done;
  clients_.guarded([&] { done = epoch_of(*state); });
  for (const auto& contribution : op.contributions) {
    if (done) works_.settle_done(contribution.ticket, *done);
    else works_.cut_off(contribution.ticket);
  }
}

Result<std::vector<Node::Child>> Node::make_children(const Group::Settings& parent, const Op& op) {
  std::map<int, std::vector<const Contribution*>> colors;
  std::map<ClientId, std::size_t> seats;
  for (const auto& contribution : op.contributions) {
    if (contribution.root < 0) continue;
    colors[contribution.root].push_back(&contribution);
    ++seats[works_.at(contribution.ticket).client];
  }
  for (const auto& [id, more] : seats) {
    const Client* client = clients_.find(id);
    if (!client) continue;
    if (auto room = check_seats(*client, more); !room) return room.error();
  }
  // Not of the parent's epoch and op: a group that is made again under the same name would count from one again.
  const std::string number = std::to_string(++last_split_);
  // Groups that nobody takes a seat of go again.
  struct Children {
    Node& node;
    std::vector<Child> made{};
    ~Children() {
      for (const auto& child : made) node.remove_group(child.group);
    }
  } children{*this};
  children.made.reserve(colors.size());
  for (auto& [color, members] : colors) {
    std::stable_sort(members.begin(), members.end(), [](const auto* a, const auto* b) {
      return std::pair(a->tag, a->rank) < std::pair(b->tag, b->rank);
    });
    Group::Settings settings = parent;
    settings.made = true;
    settings.name += "/" + number + ":" + std::to_string(color);
    settings.world_size = static_cast<int>(members.size());
    if (settings.name.size() > name_bytes_max)
      return Error(Code::invalid,
                   "the new group's name would have " + ipc::over_text(settings.name.size(), name_bytes_max),
                   "use shorter names, or split the first group instead of its parts");
    // Not to who made the parent: members of other users could split on and on at that user's cost.
    auto group = make_group(std::move(settings), payer_of(*members.front()));
    if (!group) return group.error();
    Child& child = children.made.emplace_back(Child{std::move(*group), std::move(members), {}});
    for (const auto* member : child.members) {
      auto seat = charge_seat(payer_of(*member));
      if (!seat) return seat.error();
      child.seats.push_back(std::move(*seat));
    }
  }
  return std::exchange(children.made, {});
}

void Node::split(const GroupPtr& state, const Op& op) {
  auto children = make_children(state->group.settings(), op);
  if (!children) return runs_.fail(state.get(), op, children.error());
  try {
    seat_in_children(*children, op);
  } catch (const std::exception&) {
    // Some know of their seats, and have nobody to meet there.
    for (const auto& [child, members, seats] : *children) {
      for (const auto& [rank, seat] : child->group.seats()) clients_.doom(seat.client);
      if (child->group.empty()) remove_group(child);
    }
    for (const auto& contribution : op.contributions) works_.cut_off(contribution.ticket);
  }
}

void Node::seat_in_children(std::vector<Child>& children, const Op& op) {
  for (auto& [child, members, seats] : children) {
    for (std::size_t rank = 0; rank < members.size(); ++rank)
      seat_in_child(child, *members[rank], static_cast<int>(rank), std::move(seats[rank]));
    if (child->group.empty()) remove_group(child);
    else if (!child->group.lost().empty()) tell_members(members_to_tell(child), now_);
  }
  for (const auto& contribution : op.contributions)
    if (contribution.root < 0) works_.settle_done(contribution.ticket, {});
}

void Node::seat_in_child(const GroupPtr& child, const Contribution& contribution, int rank, Charge charge) {
  Client* client = works_.waiting(contribution.ticket);
  const Seat seat{{++last_seat_}, client ? client->id : ClientId{}, rank};
  const auto join_child = [&] {
    MUSTER_ASSERT(child->group.join(child->group.settings(), seat), "a new group has room for its ranks");
  };
  if (!client) {
    // It contributed and then died: its seat in the new group is lost from the start.
    join_child();
    works_.erase(contribution.ticket);
    static_cast<void>(child->group.lose(seat.id));
    child->lost.insert_or_assign(rank, std::move(charge));
    std::size_t left = 1;
    MUSTER_ASSERT(lose_by_policy(*child, rank, {"died", {}}, left).empty(), "a new group has no ops");
    return;
  }
  auto held = make_seat(*client, seat.id, {child, rank, std::move(charge), {}});
  join_child();
  client->seats.insert(std::move(held));
  ipc::Done done;
  done.seat = seat.id;
  done.rank = rank;
  done.world_size = child->group.settings().world_size;
  done.name = child->group.settings().name;
  done.epoch = child->group.epoch();
  for (int live = 0; live < done.world_size; ++live) done.live.push_back(live);
  works_.settle_done(contribution.ticket, done);
}

}  // namespace musterd
