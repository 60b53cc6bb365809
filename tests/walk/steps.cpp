// The steps of clients, their memory and their objects.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <muster/ipc/socket.hpp>

#include "walk/walk.hpp"

namespace musterd::testing {

using muster::Device;

namespace {

std::string text(ClientId id) { return "client " + std::to_string(id.value); }
std::string text(ipc::SegmentId id) { return "segment " + std::to_string(id.value); }
std::string text(ipc::ObjectId id) {
  return "object " + std::to_string(id.value >> 32) + ":" + std::to_string(id.value & 0xffff'ffff);
}

}  // namespace

/// Sanitizers end the process without a signal. So with MUSTER_WALK_STEPS set, the steps are printed as they are taken.
void Walk::say(std::string what) {
  static const bool aloud = std::getenv("MUSTER_WALK_STEPS") != nullptr;
  if (aloud) std::fprintf(stderr, "  %s\n", what.c_str());
  steps_.push_back(std::move(what));
}

Walk::Peer* Walk::any_peer() {
  std::vector<Peer*> greeted;
  for (auto& [id, peer] : peers_)
    if (peer.greeted) greeted.push_back(&peer);
  return greeted.empty() ? nullptr : choices_.one_of(greeted);
}

void Walk::deliver(ClientId id, const Written& written) {
  reached_.note("record " + std::string(name(written.type)));
  if (written.read) written.read();
  node_->record(id, written.type, written.body, now_);
  if (const auto peer = peers_.find(id); peer != peers_.end()) give_up_seats(peer->second);
}

void Walk::read_ring(ClientId id) {
  for (auto peer = peers_.find(id); peer != peers_.end() && !peer->second.ring.empty(); peer = peers_.find(id)) {
    const Written written = std::move(peer->second.ring.front());
    peer->second.ring.pop_front();
    deliver(id, written);
  }
}

void Walk::forget(ClientId id) { peers_.erase(id); }

void Walk::connect() {
  constexpr std::size_t clients_max = 7;
  if (peers_.size() >= clients_max || stopped_) return;
  const ClientId id{++last_client_};
  Peer& peer = peers_[id];
  peer.id = id;
  peer.user = choices_.once_in(4) ? 1001 : 1000;
  say(text(id) + " of user " + std::to_string(peer.user) + " connects");
  if (!node_->connected(id, {peer.user, static_cast<std::int32_t>(1000 + id.value)}, now_)) return forget(id);
  if (!choices_.once_in(16)) greet(peer);
}

void Walk::greet(Peer& peer) {
  peer.rings = !choices_.once_in(8);
  const std::uint32_t timeout_ms = choices_.once_in(4) ? 10 : 100'000;
  const std::uint32_t protocol = choices_.once_in(32) ? 1 : ipc::protocol_version;
  say(text(peer.id) + " says Hello with " + (peer.rings ? "rings" : "no rings"));
  Asked asked;
  asked.deadline = now_ + std::chrono::milliseconds(timeout_ms);
  ask(peer, wire::Body_Hello, asked, [&](auto& fbb) {
    const auto named = fbb.CreateString("walker");
    return wire::CreateHello(fbb, protocol, named, timeout_ms, peer.rings);
  });
}

void Walk::late_hello() {
  for (auto& [id, peer] : peers_)
    if (!peer.greeted && peer.asked.empty()) return greet(peer);
}

void Walk::lease() {
  Peer* peer = any_peer();
  if (!peer || stopped_) return;
  const std::uint64_t bytes = choices_.one_of<std::uint64_t>({64 << 10, 64 << 10, 512 << 10, 1 << 20, 0, 1ULL << 40});
  const std::uint32_t timeout_ms = choices_.one_of<std::uint32_t>({0, 10, 1000, 100'000});
  const bool hard = choices_.once_in(8);
  ask_lease(*peer, bytes, timeout_ms, hard, choices_.once_in(3) ? walked_gpu : Device::cpu());
}

void Walk::ask_lease(Peer& peer, std::uint64_t bytes, std::uint32_t timeout_ms, bool hard, Device device) {
  Asked asked;
  asked.hard = hard;
  asked.device = device;
  asked.deadline = now_ + std::chrono::milliseconds(timeout_ms);
  if (!device.is_host()) *asked.deadline += std::chrono::seconds(5);  // to make the memory
  say(text(peer.id) + " asks for a lease of " + std::to_string(bytes) + " bytes on " + muster::name(device) +
      (hard ? ", hard" : ""));
  const wire::Device on(static_cast<std::uint8_t>(device.kind), device.index);
  ask(peer, wire::Body_Lease, asked,
      [&](auto& fbb) { return wire::CreateLease(fbb, bytes, timeout_ms, asked.hard, &on); });
}

void Walk::leave_in_place() {
  Peer* peer = any_peer();
  if (!peer || stopped_) return;
  const std::uint64_t bytes = choices_.one_of<std::uint64_t>({64 << 10, 64 << 10, 1000, 0, 1ULL << 40});
  const std::uint32_t timeout_ms = choices_.one_of<std::uint32_t>({0, 10, 1000, 100'000});
  Asked asked;
  asked.device = walked_gpu;
  asked.deadline = now_ + std::chrono::milliseconds(timeout_ms) + std::chrono::seconds(5);  // to open the memory
  say(text(peer->id) + " leaves " + std::to_string(bytes) + " bytes in place");
  const wire::Device on(static_cast<std::uint8_t>(walked_gpu.kind), walked_gpu.index);
  const auto memory = ipc::in_place_as<wire::InPlace>(ipc::InPlaceMemory{bytes, {}, {}});
  ask(*peer, wire::Body_LeaveInPlace, asked,
      [&](auto& fbb) { return wire::CreateLeaveInPlace(fbb, &on, &memory, timeout_ms); });
}

void Walk::lease_ready(Peer& peer, Lease& lease) {
  Asked asked;
  asked.segment = lease.id;
  say(text(peer.id) + " mapped " + text(lease.id));
  const ClientId id = peer.id;
  const bool hard = lease.hard;
  ask(peer, wire::Body_Mapped, asked, [&](auto& fbb) { return wire::CreateMapped(fbb, asked.segment.value); });
  if (!hard || choices_.once_in(4)) return;
  const auto again = peers_.find(id);
  if (again == peers_.end()) return;
  auto& leases = again->second.leases;
  const auto found =
      std::find_if(leases.begin(), leases.end(), [&](const Lease& each) { return each.id == asked.segment; });
  if (found == leases.end()) return;
  if (!choices_.once_in(4)) found->memory = {};
  say(text(id) + " seals " + text(asked.segment) + " hard");
  ask(again->second, wire::Body_HardSeal, asked,
      [&](auto& fbb) { return wire::CreateHardSeal(fbb, asked.segment.value); });
}

void Walk::mapped() {
  Peer* peer = any_peer();
  if (!peer || peer->leases.empty()) return;
  auto& lease = choices_.one_of(peer->leases);
  lease_ready(*peer, lease);
}

void Walk::give_back() {
  Peer* peer = any_peer();
  if (!peer || peer->leases.empty()) return;
  Asked asked;
  asked.segment = choices_.one_of(peer->leases).id;
  say(text(peer->id) + " returns " + text(asked.segment));
  ask(*peer, wire::Body_Return, asked, [&](auto& fbb) { return wire::CreateReturn(fbb, asked.segment.value); });
}

void Walk::hand_over() {
  Peer* peer = any_peer();
  if (!peer || peer->leases.empty()) return;
  const auto at = choices_.below(peer->leases.size());
  const auto segment = peer->leases[at].id;
  say(text(peer->id) + " hands over " + text(segment));
  peer->leases.erase(peer->leases.begin() + static_cast<std::ptrdiff_t>(at));
  write(*peer, ipc::SubmissionType::hand_over, ipc::HandOver{segment});
}

void Walk::map() {
  Peer* peer = any_peer();
  if (!peer) return;
  const ipc::SegmentId segment{1 + choices_.below(12)};
  say(text(peer->id) + " maps " + text(segment));
  ask(*peer, wire::Body_Map, {}, [&](auto& fbb) { return wire::CreateMap(fbb, segment.value); });
}

void Walk::unmap() {
  Peer* peer = any_peer();
  if (!peer) return;
  const ipc::SegmentId segment = peer->ended.empty() ? ipc::SegmentId{1 + choices_.below(12)} : *peer->ended.begin();
  peer->ended.erase(segment);
  say(text(peer->id) + " unmapped " + text(segment));
  write(*peer, ipc::SubmissionType::unmapped, ipc::Unmapped{segment});
}

/// Returns a lease with so much room, or asks for one if there is none.
Walk::Lease* Walk::room(Peer& peer, std::uint64_t bytes, Device device) {
  const auto fits = [&](Lease& lease) {
    if (lease.live == 0 && peer.ring.empty()) lease.used = 0;
    return lease.ready && lease.memory && lease.device == device && lease.used + bytes <= lease.bytes;
  };
  if (const auto found = std::find_if(peer.leases.begin(), peer.leases.end(), fits); found != peer.leases.end())
    return &*found;
  constexpr std::size_t leases_max = 4;
  if (peer.leases.size() >= leases_max) return nullptr;
  const ClientId id = peer.id;
  // Sometimes asks for a large one, in which little may be left.
  const std::uint64_t size = std::max<std::uint64_t>(bytes, choices_.once_in(4) ? 512 << 10 : 64 << 10);
  const std::size_t before = peer.leases.size();
  ask_lease(peer, size, 0, false, device);
  if (!peers_.contains(id) || peer.leases.size() == before) return nullptr;
  lease_ready(peer, peer.leases.back());
  if (!peers_.contains(id)) return nullptr;
  const auto found = std::find_if(peer.leases.begin(), peer.leases.end(), fits);
  return found == peer.leases.end() ? nullptr : &*found;
}

std::optional<ipc::ObjectId> Walk::seal(Peer& peer, std::int64_t value, std::int64_t elements, Device device) {
  const ClientId id = peer.id;
  const std::uint64_t bytes = static_cast<std::uint64_t>(elements) * sizeof value;
  Lease* lease = room(peer, bytes, device);
  if (!lease) return std::nullopt;
  std::fill_n(reinterpret_cast<std::int64_t*>(lease->memory.data() + lease->used), elements, value);
  ipc::Seal seal;
  seal.object = ipc::make_object_id(id, ++peer.objects);
  seal.capability = {{42, peer.objects}};
  const std::int64_t shape[]{elements};
  seal.manifest.add(lease->id, lease->used, muster::DType::int64, shape, device).value();
  lease->used += (bytes + 63) / 64 * 64;
  ++lease->live;
  peer.sealed.emplace(seal.object, lease->id);
  peer.holds[seal.object] = 1;
  objects_.try_emplace(seal.object, KnownObject{seal.capability, peer.user});
  say(text(id) + " seals " + text(seal.object) + " of " + std::to_string(bytes) + " bytes, all " +
      std::to_string(value));
  write(peer, ipc::SubmissionType::seal, seal);
  if (!peers_.contains(id) || !peer.holds.contains(seal.object)) return std::nullopt;
  return seal.object;
}

void Walk::seal_some() {
  Peer* peer = any_peer();
  if (!peer) return;
  const auto elements = choices_.one_of<std::int64_t>({1, 16, 16, 8192});
  seal(*peer, 77, elements, choices_.once_in(4) ? walked_gpu : Device::cpu());
}

void Walk::seal_badly() {
  Peer* peer = any_peer();
  if (!peer || peer->leases.empty()) return;
  ipc::Seal seal;
  const std::uint32_t wrong = choices_.below(4);
  seal.object = ipc::make_object_id(wrong == 0 ? ClientId{peer->id.value + 1} : peer->id, ++peer->objects);
  if (wrong == 1 && peer->holds.empty()) return;
  if (wrong == 1) seal.object = peer->holds.begin()->first;
  auto& lease = choices_.one_of(peer->leases);
  const std::int64_t shape[]{4};
  seal.manifest
      .add(wrong == 2 ? ipc::SegmentId{99} : lease.id, wrong == 3 ? lease.bytes - 8 : 0, muster::DType::int64, shape)
      .value();
  say(text(peer->id) + " seals " + text(seal.object) + " wrongly, way " + std::to_string(wrong));
  // The failure of a second seal must not be taken for that of the first.
  Written written{ipc::SubmissionType::seal, {}, {}};
  ipc::write(seal, written.body);
  const ClientId id = peer->id;
  read_ring(id);
  if (!peers_.contains(id)) return;
  const auto holds = peer->holds;
  const auto sealed = peer->sealed;
  std::vector<std::size_t> live;
  for (const auto& each : peer->leases) live.push_back(each.live);
  deliver(id, written);
  if (!peers_.contains(id)) return;
  peer->holds = holds;
  peer->sealed = sealed;
  for (std::size_t i = 0; i < live.size(); ++i) peer->leases[i].live = live[i];
}

void Walk::seal_part() {
  Peer* peer = any_peer();
  if (!peer || peer->holds.empty()) return;
  const auto whole = choices_.one_of(peer->holds).first;
  const ClientId id = peer->id;
  read_ring(id);
  const auto object = NodeAudit(*node_).held_object(id, whole);
  if (!object || object->manifest.leaves.empty() || object->manifest.leaves[0].bytes() < 16) return;
  ipc::Seal seal;
  seal.object = ipc::make_object_id(id, ++peer->objects);
  seal.capability = {{42, peer->objects}};
  seal.parent = whole;
  const std::int64_t shape[]{choices_.once_in(4) ? 1 << 20 : 1};
  const auto& leaf = object->manifest.leaves[0];
  seal.manifest.add(leaf.segment, leaf.offset, muster::DType::int64, shape, leaf.device).value();
  peer->sealed.emplace(seal.object, ipc::SegmentId{});
  peer->holds[seal.object] = 1;
  objects_.try_emplace(seal.object, KnownObject{seal.capability, object->user});
  say(text(id) + " seals " + text(seal.object) + " as a part of " + text(whole));
  reached_.note("seal of a part");
  write(*peer, ipc::SubmissionType::seal, seal);
}

void Walk::release() {
  Peer* peer = any_peer();
  if (!peer || peer->holds.empty()) return;
  ipc::Release release;
  const std::uint32_t count = 1 + choices_.below(4);
  for (std::uint32_t i = 0; i < count && !peer->holds.empty(); ++i) {
    auto& [object, holds] = choices_.one_of(peer->holds);
    release.objects.push_back(object);
    if (--holds == 0) peer->holds.erase(ipc::ObjectId(object));
  }
  say(text(peer->id) + " releases " + text(release.objects.front()) + " and " +
      std::to_string(release.objects.size() - 1) + " more");
  write(*peer, ipc::SubmissionType::release, release);
}

void Walk::release_badly() {
  Peer* peer = any_peer();
  if (!peer) return;
  const auto other = ipc::make_object_id({peer->id.value + choices_.below(2)}, 9999);
  say(text(peer->id) + " releases " + text(other) + ", which it doesn't hold");
  peer->refused.insert(other);
  write(*peer, ipc::SubmissionType::release, ipc::Release{{other}});
}

void Walk::pin() {
  Peer* peer = any_peer();
  if (!peer || peer->holds.empty()) return;
  const auto object = choices_.one_of(peer->holds).first;
  say(text(peer->id) + " pins " + text(object));
  write(*peer, ipc::SubmissionType::pin, ipc::Pin{object});
}

void Walk::describe() {
  Peer* peer = any_peer();
  if (!peer || objects_.empty()) return;
  const auto object =
      choices_.once_in(4) || peer->holds.empty() ? choices_.one_of(objects_).first : choices_.one_of(peer->holds).first;
  say(text(peer->id) + " asks for the manifest of " + text(object));
  ask(*peer, wire::Body_Describe, {}, [&](auto& fbb) { return wire::CreateDescribe(fbb, object.value); });
}

void Walk::lookup() {
  Peer* peer = any_peer();
  if (!peer || objects_.empty()) return;
  // The newest objects are the most likely to live.
  const auto back = std::min<std::size_t>(choices_.below(16), objects_.size() - 1);
  const auto& [object, kept] = *std::prev(objects_.end(), static_cast<std::ptrdiff_t>(back) + 1);
  const auto bits = kept.capability.bits;
  const wire::Capability shown(bits[0] + (choices_.once_in(8) ? 1 : 0), bits[1]);
  const std::uint64_t incarnation = choices_.once_in(16) ? 6 : 7;
  say(text(peer->id) + " looks " + text(object) + " up");
  ask(*peer, wire::Body_Lookup, {},
      [&, id = object.value](auto& fbb) { return wire::CreateLookup(fbb, incarnation, id, id % 2 == 0, &shown); });
}

/// The names are few, so clients of one user meet at them.
void Walk::token() {
  Peer* peer = any_peer();
  if (!peer) return;
  const std::string name(1, static_cast<char>('a' + choices_.below(3)));
  const std::uint32_t what = choices_.below(5);
  if (what < 2) {
    say(text(peer->id) + " opens token " + name);
    return ask(*peer, wire::Body_OpenToken, {},
               [&](auto& fbb) { return wire::CreateOpenToken(fbb, fbb.CreateString(name)); });
  }
  if (what == 2) {
    say(text(peer->id) + " ends token " + name);
    return ask(*peer, wire::Body_EndToken, {},
               [&](auto& fbb) { return wire::CreateEndToken(fbb, fbb.CreateString(name)); });
  }
  if (peer->holds.empty()) return;
  const auto object = choices_.one_of(peer->holds).first;
  say(text(peer->id) + " keeps " + text(object) + " for token " + name);
  ask(*peer, wire::Body_KeepFor, {},
      [&](auto& fbb) { return wire::CreateKeepFor(fbb, fbb.CreateString(name), object.value); });
}

void Walk::fork() {
  Peer* peer = any_peer();
  if (!peer) return;
  say(text(peer->id) + " forks");
  ask(*peer, wire::Body_Fork, {}, [](auto& fbb) { return wire::CreateFork(fbb); });
}

void Walk::lifeline_closes() {
  if (lifelines_.empty()) return;
  const auto heir = choices_.one_of(lifelines_);
  std::erase(lifelines_, heir);
  say("the life line of heir " + std::to_string(heir.value) + " closes");
  reached_.note("life line closed");
  node_->lifeline_closed(heir, now_);
}

void Walk::query() {
  Peer* peer = any_peer();
  if (!peer) return;
  const std::uint64_t work = peer->last_work;
  switch (choices_.below(5)) {
    case 0: return ask(*peer, wire::Body_StatusQuery, {}, [](auto& fbb) { return wire::CreateStatusQuery(fbb); });
    case 1: return ask(*peer, wire::Body_ObjectsQuery, {}, [](auto& fbb) { return wire::CreateObjectsQuery(fbb); });
    case 2: return ask(*peer, wire::Body_GroupsQuery, {}, [](auto& fbb) { return wire::CreateGroupsQuery(fbb); });
    case 3: return ask(*peer, wire::Body_ClientsQuery, {}, [](auto& fbb) { return wire::CreateClientsQuery(fbb); });
    default:
      return ask(*peer, wire::Body_MissingQuery, {}, [&](auto& fbb) { return wire::CreateMissingQuery(fbb, work); });
  }
}

void Walk::bad_request() {
  Peer* peer = any_peer();
  if (!peer) return;
  const std::uint32_t wrong = choices_.below(4);
  say(text(peer->id) + " asks for something wrong, way " + std::to_string(wrong));
  switch (wrong) {
    case 0: return ask(*peer, wire::Body_Mapped, {}, [](auto& fbb) { return wire::CreateMapped(fbb, 99); });
    case 1: return ask(*peer, wire::Body_HardSeal, {}, [](auto& fbb) { return wire::CreateHardSeal(fbb, 99); });
    case 2: return ask(*peer, wire::Body_Leave, {}, [](auto& fbb) { return wire::CreateLeave(fbb, 99'999); });
    default: return ask(*peer, wire::Body_Return, {}, [](auto& fbb) { return wire::CreateReturn(fbb, 99); });
  }
}

void Walk::nonsense() {
  Peer* peer = any_peer();
  if (!peer) return;
  const ClientId id = peer->id;
  const std::uint32_t way = choices_.below(3);
  say(text(id) + " breaks the protocol, way " + std::to_string(way));
  read_ring(id);
  if (!peers_.contains(id)) return;
  if (way == 0) return node_->record(id, static_cast<ipc::SubmissionType>(99), {}, now_);
  const std::byte garbage[8]{std::byte{0xff}};
  if (way == 1) return node_->record(id, ipc::SubmissionType::contribute, garbage, now_);
  ask(*peer, wire::Body_Hello, {}, [](auto& fbb) { return wire::CreateHello(fbb, ipc::protocol_version); });
}

void Walk::die() {
  Peer* peer = any_peer();
  if (choices_.once_in(8)) peer = peers_.empty() ? nullptr : &choices_.one_of(peers_).second;
  if (!peer) return;
  const ClientId id = peer->id;
  // What the client had written before still counts.
  read_ring(id);
  if (!peers_.contains(id)) return;
  say(text(id) + " dies");
  reached_.note("died");
  peer->dying = true;
  static_cast<void>(node_->disconnected(id, "died", now_));
  node_->disposed(now_);  // its rings are unmapped
  forget(id);
}

void Walk::time_passes() {
  now_ += choices_.one_of<Duration>({std::chrono::milliseconds(1), std::chrono::milliseconds(1),
                                     std::chrono::milliseconds(20), std::chrono::milliseconds(200),
                                     std::chrono::seconds(2), std::chrono::minutes(11)});
  say("time passes: " +
      std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(now_.time_since_epoch()).count()) + " ms");
  if (choices_.once_in(4)) return;
  node_->tick(now_);
  check_deadlines();
}

void Walk::job_ends() {
  if (choices_.once_in(4)) finish_copies();
  if (lane_.jobs.empty()) {
    lane_.apart = choices_.once_in(2);
    return;
  }
  const auto chosen = std::next(lane_.jobs.begin(), choices_.below(static_cast<std::uint32_t>(lane_.jobs.size())));
  const auto& [id, held] = *chosen;
  const bool late = held.cancelled;
  if (held.ended) {
    say("a lane becomes quiet");
    reached_.note("a job ends late, and touches memory until then");
    return lane_.become_quiet(id);
  }
  if (!choices_.once_in(6)) {
    say("a lane finishes a job");
    reached_.note(late ? "a job is done after its deadline" : "a job is done");
    return lane_.finish(id);
  }
  const muster::Error error(muster::Code::failed, "the lane has failed");
  say("a lane fails a job");
  reached_.note("a lane fails a job");
  if (choices_.once_in(2)) return lane_.fail(id, error);
  lane_.fail_and_run_on(id, error);
}

void Walk::gpu_makes_memory() {
  const bool fails = choices_.once_in(4);
  const muster::Result<void> made =
      fails ? muster::Error(muster::Code::out_of_memory, "the GPU is full", "wait") : muster::Result<void>();
  if (choices_.once_in(2) && gpu_memory_.close_one()) {
    say("the GPU has closed what was left in place");
    return;
  }
  if (!gpu_memory_.finish_one(made)) return;
  say(fails ? "the GPU has no memory" : "the GPU has made memory");
  reached_.note(fails ? "a GPU has no memory" : "a GPU has made memory");
}

void Walk::decision_comes() {
  if (decider_.asked.empty()) {
    decider_.late = choices_.once_in(2);
    return;
  }
  const auto count = static_cast<std::uint32_t>(decider_.asked.size());
  const auto chosen = std::next(decider_.asked.begin(), choices_.below(count));
  const bool about_epoch = chosen->about == Proposal::About::epoch;
  reached_.note(about_epoch ? "an epoch is decided late" : "an op is decided late");
  if (count > 1) reached_.note("decisions come in another order");
  if (about_epoch || !choices_.once_in(6)) {
    say("the decider agrees");
    return decider_.agree(chosen);
  }
  say("the decider refuses");
  reached_.note("an op is refused");
  decider_.refuse(chosen, {muster::Code::no_quorum, "the group's leader is gone"});
}

void Walk::ring_is_read() {
  if (choices_.once_in(2)) return finish_lookups();
  if (peers_.empty()) return;
  const ClientId id = choices_.one_of(peers_).first;
  say("the ring of " + text(id) + " is read");
  read_ring(id);
}

void Walk::stops() {
  // Comes late, as most walks would otherwise be short.
  Peer* peer = any_peer();
  if (!peer || !choices_.once_in(8)) return;
  say(text(peer->id) + " asks the daemon to end");
  ask(*peer, wire::Body_Stop, {}, [](auto& fbb) {
    const auto reason = fbb.CreateString("enough");
    return wire::CreateStop(fbb, reason);
  });
  if (!std::exchange(stop_asked_, false)) return;
  stopped_ = true;
  reached_.note("shut down");
  node_->shut_down("enough", now_);
}

}  // namespace musterd::testing
