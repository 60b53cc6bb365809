// The steps of groups and ops. Which op a rank calls next follows from the group, its epoch and the number of ops
// before. So ranks that choose their steps separately mostly agree.
#include <algorithm>
#include <array>

#include "walk/walk.hpp"

namespace musterd::testing {

using ipc::Kind;
using ipc::Layout;
using muster::Device;
using muster::OnLoss;
using muster::ReduceOp;

namespace {

struct GroupPlan {
  const char* name;
  int world_size;
  OnLoss on_loss;
  bool open;
};
constexpr std::array group_plans{
    GroupPlan{"a", 2, OnLoss::fail, false}, GroupPlan{"b", 3, OnLoss::shrink, false},
    GroupPlan{"c", 2, OnLoss::wait, false}, GroupPlan{"d", 3, OnLoss::fail, true},
    GroupPlan{"e", 3, OnLoss::wait, true},  GroupPlan{"f", 1, OnLoss::fail, false},
    GroupPlan{"g", 3, OnLoss::fail, false}, GroupPlan{"h", 2, OnLoss::shrink, true},
};

std::uint64_t mixed(std::uint64_t number) {
  number = (number ^ (number >> 30)) * 0xbf58'476d'1ce4'e5b9;
  number = (number ^ (number >> 27)) * 0x94d0'49bb'1331'11eb;
  return number ^ (number >> 31);
}

std::string text(SeatId seat) { return "seat " + std::to_string(seat.value); }

constexpr const char* bad_key = "\n";
constexpr std::int64_t few_elements = 16;
constexpr std::int64_t many_elements = 16 << 10;  ///< with two ranks, this many elements are a job for the lanes

}  // namespace

std::uint64_t Walk::group_number(const NodeAudit::SeatView& view) {
  return group_numbers_.try_emplace(view.group, group_numbers_.size() + 1).first->second;
}

std::vector<Walk::PeerSeat> Walk::all_seats() {
  std::vector<PeerSeat> seats;
  const NodeAudit audit(*node_);
  for (auto& [id, peer] : peers_)
    // check() handles seats that the node doesn't know.
    for (const SeatId seat : audit.seats_of(id))
      if (peer.seats.contains(seat)) seats.push_back({id, seat, audit.seat(id, seat)});
  return seats;
}

std::vector<Walk::PeerSeat> Walk::seats_of_one_group() {
  auto seats = all_seats();
  if (seats.empty()) return seats;
  const auto group = group_number(choices_.one_of(seats).view);
  std::erase_if(seats, [&](const PeerSeat& each) { return group_number(each.view) != group; });
  const auto first = static_cast<std::ptrdiff_t>(choices_.below(seats.size()));
  std::rotate(seats.begin(), seats.begin() + first, seats.end());
  return seats;
}

void Walk::join() {
  Peer* peer = any_peer();
  if (!peer || stopped_) return;
  // Each walk has few groups, so that they fill up.
  GroupPlan plan = group_plans[(salt_ + choices_.below(3)) % group_plans.size()];
  std::string group = plan.name;
  if (choices_.once_in(4)) group += "/1:0";
  if (choices_.once_in(24)) ++plan.world_size;
  if (choices_.once_in(24)) plan.open = !plan.open;
  if (choices_.once_in(24)) plan.on_loss = OnLoss::shrink;
  std::set<int> taken;
  for (const auto& seat : all_seats())
    if (seat.view.name == group && (plan.open || peers_.at(seat.client).user == peer->user))
      taken.insert(seat.view.rank);
  int rank = 0;
  while (taken.contains(rank)) ++rank;
  if (rank >= plan.world_size || choices_.once_in(8)) rank = static_cast<int>(choices_.below(4)) - 1;
  say("client " + std::to_string(peer->id.value) + " joins " + group + " as rank " + std::to_string(rank) + " of " +
      std::to_string(plan.world_size));
  ask(*peer, wire::Body_Join, {}, [&](auto& fbb) {
    const auto name = fbb.CreateString(group);
    return wire::CreateJoin(fbb, name, rank, plan.world_size, 30'000, static_cast<std::uint8_t>(plan.on_loss),
                            plan.open);
  });
}

void Walk::leave() {
  Peer* peer = any_peer();
  if (!peer || peer->seats.empty()) return;
  const ClientId id = peer->id;
  read_ring(id);
  if (!peers_.contains(id)) return;
  promote_newcomers();
  if (peer->seats.empty()) return;
  const SeatId seat = choices_.one_of(peer->seats).first;
  say("client " + std::to_string(id.value) + " leaves " + text(seat));
  peer->seats.erase(seat);
  ask(*peer, wire::Body_Leave, {}, [&](auto& fbb) { return wire::CreateLeave(fbb, seat.value); });
}

void Walk::contribute_one() {
  const auto seats = seats_of_one_group();
  if (!seats.empty()) contribute(seats.front());
}

/// Every seat of a group calls its next op.
void Walk::round() {
  for (const auto& seat : seats_of_one_group()) {
    const auto peer = peers_.find(seat.client);
    if (peer == peers_.end() || !peer->second.seats.contains(seat.seat)) continue;
    contribute_by_program({seat.client, seat.seat, NodeAudit(*node_).seat(seat.client, seat.seat)}, "");
  }
}

void Walk::reform_round() {
  const auto seats = seats_of_one_group();
  for (const auto& seat : seats) {
    const auto peer = peers_.find(seat.client);
    if (peer == peers_.end() || !peer->second.seats.contains(seat.seat) || choices_.once_in(8)) continue;
    ipc::Contribute contribute;
    contribute.kind = Kind::reform;
    submit({seat.client, seat.seat, NodeAudit(*node_).seat(seat.client, seat.seat)}, contribute, 0);
  }
}

void Walk::contribute(const PeerSeat& seat) {
  switch (choices_.below(16)) {
    case 0:
    case 1: return contribute_by_program(seat, choices_.once_in(2) ? "k" : "l");
    case 2:
    case 3:
    case 4:
    case 5: return contribute_pairwise(seat);
    case 6: return contribute_oddly(seat);
    default: return contribute_by_program(seat, "");
  }
}

std::string Walk::channel_of(const ipc::Contribute& contribute, int rank) {
  switch (contribute.kind) {
    case Kind::reform: return "reform";
    case Kind::send:
      return "from " + std::to_string(rank) + " to " + std::to_string(contribute.root) + " tag " +
             std::to_string(contribute.tag) + " key " + contribute.key;
    case Kind::recv:
      return "from " + std::to_string(contribute.root) + " to " + std::to_string(rank) + " tag " +
             std::to_string(contribute.tag) + " key " + contribute.key;
    default: return contribute.key.empty() ? "" : "key " + contribute.key;
  }
}

/// A newcomer's calls count for its rank once it is a member, and never if it leaves before that.
Walk::Came Walk::came(const PeerSeat& seat, const std::string& channel, Kind kind) {
  const auto& view = seat.view;
  const auto who = view.newcomer ? -1 - static_cast<std::int64_t>(seat.seat.value) : view.rank;
  return {group_number(view), view.epoch + (view.newcomer ? 1 : 0), who,
          channel + (kind == Kind::send ? " (send)" : "")};
}

void Walk::promote_newcomers() {
  for (const auto& seat : all_seats()) {
    auto& known = peers_.at(seat.client).seats.at(seat.seat);
    if (!known.newcomer || seat.view.newcomer) continue;
    known.newcomer = false;
    seated_.insert({group_number(seat.view), seat.view.epoch, seat.view.rank});
    const auto number = group_number(seat.view);
    const auto early = -1 - static_cast<std::int64_t>(seat.seat.value);
    std::map<Came, std::uint64_t> moved;
    for (auto at = came_.lower_bound({number, 0, early, ""}); at != came_.end(); ++at)
      if (std::get<2>(at->first) == early) moved.insert(*at);
    for (const auto& [key, count] : moved) {
      came_[{number, std::get<1>(key), seat.view.rank, std::get<3>(key)}] += count;
      came_.erase(key);
    }
  }
}

/// Returns the op at this place of this group's program.
ipc::Contribute Walk::programmed(const PeerSeat& seat, const PlaceId& place) const {
  const auto& [group, epoch, channel, index] = place;
  const std::uint64_t dice = mixed(mixed(mixed(salt_ + 256 * group) + 16 * epoch +
                                         static_cast<std::uint64_t>(channel.empty() ? 0 : channel.back())) +
                                   index);
  constexpr std::array kinds{Kind::barrier,   Kind::allreduce, Kind::allreduce,      Kind::allreduce,
                             Kind::reduce,    Kind::scan,      Kind::broadcast,      Kind::split,
                             Kind::allgather, Kind::gather,    Kind::scatter,        Kind::reduce_scatter,
                             Kind::scatter,   Kind::gather,    Kind::reduce_scatter, Kind::all_to_all};
  ipc::Contribute contribute;
  contribute.kind = kinds[dice % kinds.size()];
  contribute.op = std::array{ReduceOp::sum, ReduceOp::max, ReduceOp::min}[(dice >> 8) % 3];
  contribute.root = static_cast<std::int32_t>((dice >> 16) % static_cast<std::uint64_t>(seat.view.world_size));
  const bool moves = (dice >> 24) % 2 == 0;
  const bool gathers = contribute.kind == Kind::allgather || contribute.kind == Kind::gather;
  if (moves && gathers) contribute.layout = Layout::stack;
  if (moves && contribute.kind == Kind::all_to_all) contribute.layout = Layout::concat;
  if (contribute.kind == Kind::split) {
    contribute.root =
        static_cast<std::int32_t>((dice >> (32 + seat.view.rank)) % 4) / 2 - ((dice >> 40) % 4 == 0 ? 1 : 0);
    contribute.tag = -seat.view.rank;
  }
  return contribute;
}

void Walk::contribute_by_program(const PeerSeat& seat, const std::string& key) {
  promote_newcomers();
  const std::string channel = key.empty() ? "" : "key " + key;
  const std::uint64_t index = came_[came(seat, channel, Kind::barrier)];
  const PlaceId place{group_number(seat.view), epoch_of(seat.view), channel, index};
  auto contribute = programmed(seat, place);
  contribute.key = key;
  const auto dice = mixed(index + salt_ + group_number(seat.view));
  const bool large = dice % 8 == 0;
  const auto device = dice / 8 % 4 == 0 ? walked_gpu : Device::cpu();
  const auto value = static_cast<std::int64_t>(index) + 1;
  if (!give_inputs(seat, contribute, value, large ? many_elements : few_elements, device)) return;
  submit(seat, contribute, value);
}

/// Mostly calls what another rank waits for: a send without a receiver yet, or a receive without its send.
void Walk::contribute_pairwise(const PeerSeat& seat) {
  promote_newcomers();
  ipc::Contribute contribute;
  contribute.kind = choices_.once_in(2) ? Kind::send : Kind::recv;
  contribute.root = static_cast<std::int32_t>(choices_.below(static_cast<std::size_t>(seat.view.world_size)));
  contribute.tag = choices_.once_in(4) ? 1 : 0;
  for (const auto& [id, other] : peers_)
    for (const auto& [number, work] : other.works) {
      if (!work.outcome.empty() || work.group != group_number(seat.view) || work.peer != seat.view.rank) continue;
      if (work.kind != Kind::send && work.kind != Kind::recv) continue;
      contribute.kind = work.kind == Kind::send ? Kind::recv : Kind::send;
      contribute.root = work.rank;
      contribute.tag = work.tag;
    }
  const std::string channel = channel_of(contribute, seat.view.rank);
  const auto value = static_cast<std::int64_t>(came_[came(seat, channel, contribute.kind)]) + 1;
  if (!give_inputs(seat, contribute, value, few_elements)) return;
  submit(seat, contribute, value);
}

/// Calls an op that the other ranks will hardly agree with.
void Walk::contribute_oddly(const PeerSeat& seat) {
  const auto peer = peers_.find(seat.client);
  ipc::Contribute contribute;
  contribute.kind = static_cast<Kind>(choices_.below(ipc::kind_count));
  contribute.op = static_cast<ReduceOp>(choices_.below(muster::reduce_op_count));
  contribute.layout = static_cast<Layout>(choices_.below(ipc::layout_count));
  contribute.root = static_cast<std::int32_t>(choices_.below(5)) - 1;
  contribute.tag = choices_.below(3);
  if (choices_.once_in(4)) contribute.key = "k";
  for (auto inputs = choices_.below(4); inputs > 0 && !peer->second.holds.empty(); --inputs)
    contribute.objects.push_back(choices_.one_of(peer->second.holds).first);
  if (choices_.once_in(3)) {
    if (choices_.once_in(2)) contribute.objects.push_back(ipc::make_object_id(seat.client, 12'345));
    else contribute.key = bad_key;
  }
  submit(seat, contribute, 0);
}

bool Walk::give_inputs(const PeerSeat& seat, ipc::Contribute& contribute, std::int64_t value, std::int64_t elements,
                       Device device) {
  std::size_t count = 1;
  const auto all = static_cast<std::size_t>(seat.view.world_size);
  switch (contribute.kind) {
    case Kind::barrier:
    case Kind::recv:
    case Kind::split:
    case Kind::reform: return true;
    case Kind::broadcast: count = contribute.root == seat.view.rank ? 1 : 0; break;
    case Kind::scatter: count = contribute.root == seat.view.rank ? all : 0; break;
    case Kind::reduce_scatter:
    case Kind::all_to_all: count = all; break;
    default: break;
  }
  if (count == 0) return true;
  const auto object = seal(peers_.at(seat.client), value, elements, device);
  if (!object) return false;
  contribute.objects.assign(count, *object);
  return true;
}

std::int64_t Walk::any_timeout() {
  constexpr std::int64_t millisecond = 1'000'000;
  return millisecond * choices_.one_of<std::int64_t>({5, 300, 10'000, 10'000, 10'000, 3'600'000});
}

/// `value` is the value of all inputs; 0 if the inputs are not those of the program.
void Walk::submit(const PeerSeat& seat, ipc::Contribute contribute, std::int64_t value) {
  const auto found = peers_.find(seat.client);
  if (found == peers_.end() || !found->second.seats.contains(seat.seat)) return;
  Peer& peer = found->second;
  contribute.work = {++peer.last_work};
  contribute.seat = seat.seat;
  contribute.epoch = peer.seats.at(seat.seat).epoch;
  if (choices_.once_in(32)) --contribute.epoch;
  contribute.timeout_ns = any_timeout();
  say("client " + std::to_string(peer.id.value) + " " + text(seat.seat) + " (rank " + std::to_string(seat.view.rank) +
      " of " + seat.view.name + ") calls " + std::string(ipc::name(contribute.kind)) + " " +
      channel_of(contribute, seat.view.rank) + ", work " + std::to_string(contribute.work.value) + ", root " +
      std::to_string(contribute.root) + ", " + std::to_string(contribute.objects.size()) + " inputs, epoch " +
      std::to_string(contribute.epoch) + ", within " + std::to_string(contribute.timeout_ns / 1'000'000) + " ms");
  const ClientId id = peer.id;
  write(peer, ipc::SubmissionType::contribute, contribute,
        [this, id, contribute, value] { take_place(id, contribute, value); });
}

/// The node reads the contribution now, so the contribution counts at its present place.
void Walk::take_place(ClientId id, const ipc::Contribute& contribute, std::int64_t value) {
  promote_newcomers();
  Peer& peer = peers_.at(id);
  Work& work = peer.works[contribute.work.value];
  work.kind = contribute.kind;
  work.id = contribute.work;
  work.op = contribute.op;
  work.deadline = now_ + std::chrono::nanoseconds(contribute.timeout_ns);
  work.seat = contribute.seat;
  // A key that is not text matches nothing, so nobody waits in its place.
  if (!peer.seats.contains(contribute.seat) || contribute.key == bad_key || stopped_) return;
  const PeerSeat seat{id, contribute.seat, NodeAudit(*node_).seat(id, contribute.seat)};
  work.newcomer = seat.view.newcomer;
  const bool reform = contribute.kind == Kind::reform;
  if (reform ? seat.view.newcomer || peer.seats.at(seat.seat).replaces
             : !seat.view.newcomer && contribute.epoch < seat.view.epoch)
    return;
  const std::string channel = channel_of(contribute, seat.view.rank);
  work.came = came(seat, channel, contribute.kind);
  const std::uint64_t index = came_[work.came]++;
  work.group = group_number(seat.view);
  work.rank = seat.view.rank;
  work.peer = contribute.root;
  work.tag = contribute.tag;
  work.value = value;
  Place& place = places_[{work.group, epoch_of(seat.view), channel, index}];
  place.name = "op " + std::to_string(index) + (channel.empty() ? "" : " " + channel) + " of epoch " +
               std::to_string(epoch_of(seat.view)) + " of group " + seat.view.name + " (" + std::to_string(work.group) +
               ")";
  place.odd |= value != static_cast<std::int64_t>(index) + 1;
  work.place = &place;
}

void Walk::combine() {
  Peer* peer = any_peer();
  if (!peer) return;
  const ClientId id = peer->id;
  ipc::Combine combine;
  combine.kind =
      choices_.one_of({Kind::allreduce, Kind::allreduce, Kind::reduce, Kind::scan, Kind::broadcast, Kind::allgather,
                       Kind::gather, Kind::scatter, Kind::reduce_scatter, Kind::all_to_all, Kind::barrier});
  combine.op = choices_.one_of({ReduceOp::sum, ReduceOp::max, ReduceOp::min});
  combine.ranks = 1 + choices_.below(3);
  combine.root = static_cast<std::int32_t>(choices_.once_in(8) ? choices_.below(5) : 0);
  const std::int64_t value = 1 + choices_.below(8);
  const bool spreads = combine.kind == Kind::reduce_scatter || combine.kind == Kind::all_to_all;
  const bool one_input = combine.kind == Kind::broadcast || combine.kind == Kind::scatter;
  std::size_t count = combine.ranks;
  if (spreads) count *= combine.ranks;
  const auto elements = choices_.once_in(6) ? many_elements : few_elements;
  const auto object = seal(*peer, value, elements, choices_.once_in(6) ? walked_gpu : Device::cpu());
  if (!object || !peers_.contains(id)) return;
  combine.objects.assign(count, *object);
  combine.work = {++peer->last_work};
  combine.timeout_ns = any_timeout();
  say("client " + std::to_string(id.value) + " combines " + std::string(ipc::name(combine.kind)) + " of " +
      std::to_string(combine.ranks) + " ranks, work " + std::to_string(combine.work.value) + ", root " +
      std::to_string(combine.root) + (one_input ? ", one input" : ""));
  write(*peer, ipc::SubmissionType::combine, combine, [this, id, combine, value] {
    Work& work = peers_.at(id).works[combine.work.value];
    work.kind = combine.kind;
    work.id = combine.work;
    work.op = combine.op;
    work.deadline = now_ + std::chrono::nanoseconds(combine.timeout_ns);
    work.value = value;
  });
}

}  // namespace musterd::testing
