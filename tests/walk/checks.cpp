// What must hold after each step, and what must hold for each answer and each outcome.
#include <algorithm>
#include <cstring>

#include "walk/walk.hpp"

namespace musterd::testing {

using ipc::Kind;
using muster::Code;

namespace {

std::string client_text(ClientId id) { return "client " + std::to_string(id.value); }

bool is_reduction(Kind kind) {
  return kind == Kind::allreduce || kind == Kind::reduce || kind == Kind::scan || kind == Kind::reduce_scatter;
}

}  // namespace

/// Notes the fault until the node has returned: the node's functions need not be safe against exceptions.
void Walk::broken(const std::string& what) {
  if (broken_.empty()) broken_ = what;
}

void Walk::check() {
  if (broken_.empty()) {
    promote_newcomers();
    const NodeAudit audit(*node_);
    for (auto& [id, peer] : peers_) give_up_seats(peer);
    for (const auto& contradiction : audit.contradictions()) broken(contradiction);
    if (audit.memory_waits_unnoticed()) broken("memory came back, and who waits for some was not tried again");
    if (node_->clients() != peers_.size())
      broken(std::to_string(node_->clients()) + " clients where " + std::to_string(peers_.size()) + " are connected");
    for (const auto& [id, peer] : peers_) {
      const auto seats = audit.seats_of(id);
      if (seats.size() != peer.seats.size())
        broken(client_text(id) + " has " + std::to_string(seats.size()) + " seats and was told of " +
               std::to_string(peer.seats.size()));
      if (peer.ring.empty() && audit.objects_held(id) != peer.holds.size())
        broken(client_text(id) + " holds " + std::to_string(audit.objects_held(id)) + " objects and was given " +
               std::to_string(peer.holds.size()));
    }
  }
  if (!broken_.empty()) throw Broken(broken_);
}

/// If nobody can be charged for a rank's op, the rank loses its seat with that op.
void Walk::give_up_seats(Peer& peer) {
  const auto held = NodeAudit(*node_).seats_of(peer.id);
  for (const auto& [number, work] : peer.works) {
    const auto seat = peer.seats.find(work.seat);
    if (!work.lost_seat || seat == peer.seats.end()) continue;
    if (std::find(held.begin(), held.end(), work.seat) == held.end()) peer.seats.erase(seat);
  }
}

/// Called right after a tick.
void Walk::check_deadlines() {
  if (const auto next = node_->next_deadline(); next && *next <= now_)
    broken("a deadline is still there after its tick");
  const NodeAudit audit(*node_);
  for (const auto& [id, peer] : peers_) {
    for (const auto& [number, work] : peer.works)
      if (work.outcome.empty() && work.deadline <= now_ && !audit.is_undecided(id, work.id))
        broken("work " + std::to_string(number) + " of " + client_text(id) + " (" + std::string(ipc::name(work.kind)) +
               ") waits beyond its deadline");
    for (const auto& [request, asked] : peer.asked)
      if (asked.deadline && *asked.deadline <= now_)
        broken("request " + std::to_string(request) + " of " + client_text(id) + " waits beyond its deadline");
  }
}

void Walk::answered(Peer& peer, const wire::Frame& frame, std::span<const int> fds) {
  if (frame.body_as_Goodbye()) {
    reached_.note("told " + answer_text(frame));
    // Unless the whole daemon ends, the node forgets the client now.
    peer.dying = !stopped_;
    return;
  }
  const auto found = peer.asked.find(frame.request());
  if (found == peer.asked.end())
    return broken(client_text(peer.id) + " got an answer that it didn't wait for: " + answer_text(frame));
  const Asked asked = found->second;
  peer.asked.erase(found);
  const std::string where = asked.device.is_host() ? "" : " on a GPU";
  reached_.note(std::string(wire::EnumNameBody(asked.what)) + where + " -> " + answer_text(frame));
  take_answer(peer, asked, frame, fds);
}

void Walk::take_answer(Peer& peer, const Asked& asked, const wire::Frame& frame, std::span<const int> fds) {
  if (frame.body_as_Welcome()) peer.greeted = true;
  if (const auto* segment = frame.body_as_Segment()) {
    const ipc::SegmentId id{segment->segment()};
    const auto made = NodeAudit(*node_).segment(id);
    if (!made || fds.size() != made->descriptors().size()) return broken("a segment without its descriptor");
    if (asked.what == wire::Body_Map) {
      peer.readable.insert(id);
      return;
    }
    Lease lease{id, segment->bytes(), 0, asked.hard, false, 0, asked.device, {}};
    lease.memory = WriterMapping::map(*made, fds);
    lease.ready = asked.what == wire::Body_LeaveInPlace;
    if (lease.ready) peer.in_place.insert(id);
    peer.leases.push_back(std::move(lease));
  }
  if (const auto* joined = frame.body_as_Joined()) check_joined(peer, *joined);
  if (const auto* object = frame.body_as_Object(); object && asked.what == wire::Body_Lookup)
    ++peer.holds[{object->object()}];
  if (frame.body_type() != wire::Body_Ok) return;
  if (asked.what == wire::Body_Fork) lifelines_.push_back(last_heir_);
  if (asked.what == wire::Body_Return)
    std::erase_if(peer.leases, [&](const Lease& lease) { return lease.id == asked.segment; });
  for (auto& lease : peer.leases)
    if (lease.id == asked.segment) lease.ready |= asked.what == (lease.hard ? wire::Body_HardSeal : wire::Body_Mapped);
}

void Walk::check_joined(Peer& peer, const wire::Joined& joined) {
  promote_newcomers();
  const SeatId id{joined.seat()};
  const auto view = NodeAudit(*node_).seat(peer.id, id);
  const bool first = view.newcomer || seated_.insert({group_number(view), view.epoch, view.rank}).second;
  // A newcomer may have become a member and died in one event, and nobody was told of that. So in later epochs a
  // process that joins may replace an unknown member.
  const bool knows_all = first && view.epoch == 1;
  peer.seats[id] = {joined.epoch(), view.newcomer, !view.newcomer && !knows_all};
  if (joined.member() == view.newcomer) broken(client_text(peer.id) + " was told wrongly whether it is a member");
  reached_.note(view.newcomer                            ? "joined as newcomer"
                : joined.owes() && joined.owes()->size() ? "joined as one that owes ops"
                                                         : "joined as member");
  if (view.newcomer || view.epoch > 1) return;
  const auto position = came_[came({peer.id, id, view}, "", Kind::barrier)];
  if (joined.position() != position)
    broken(client_text(peer.id) + " joined at position " + std::to_string(joined.position()) + " where " +
           std::to_string(position) + " ops came before");
}

void Walk::told_done(Peer& peer, const ipc::Done& done) {
  for (const auto& item : done.items) {
    ++peer.holds[item.object];
    objects_.try_emplace(item.object, KnownObject{item.capability, peer.user});
  }
  if (done.seat) peer.seats[done.seat] = {done.epoch, false, false};
  const Work* work = settle(peer, done.work, "done");
  if (work) check_values(peer, *work, done);
}

void Walk::told_failed(Peer& peer, const ipc::Failed& failed) {
  const auto work = peer.works.find(failed.work.value);
  if (work != peer.works.end() && failed.error.message().find("the rank has lost its seat") != std::string::npos) {
    work->second.lost_seat = true;
    if (work->second.place) --came_[work->second.came];  // it does not count
  }
  settle(peer, failed.work, std::string(muster::name(failed.error.code())));
}

Walk::Work* Walk::settle(Peer& peer, ipc::WorkId id, const std::string& outcome) {
  const std::string who = "work " + std::to_string(id.value) + " of " + client_text(peer.id);
  const auto found = peer.works.find(id.value);
  if (found == peer.works.end()) {
    broken("an outcome for " + who + ", which does not exist");
    return nullptr;
  }
  Work& work = found->second;
  if (!work.outcome.empty()) broken("a second outcome (" + outcome + ") for " + who + ", which had " + work.outcome);
  work.outcome = outcome;
  reached_.note((work.seat ? "" : "combine ") + std::string(ipc::name(work.kind)) + " -> " + outcome);
  if (work.seat) reached_.note("op -> " + outcome);
  // Three cases don't count: a newcomer left before the epoch began, so it never came to the op; its call expired
  // before that; or the daemon ends, when outcomes may differ.
  const bool left_before =
      work.newcomer && (outcome == muster::name(Code::group_closed) || outcome == muster::name(Code::timeout));
  if (!work.place || left_before || work.lost_seat || outcome == muster::name(Code::daemon_unavailable)) return &work;
  Place& place = *work.place;
  if (!place.outcome) {
    place.outcome = outcome;
    place.told = who;
  } else if (*place.outcome != outcome) {
    broken(place.name + " ended with " + *place.outcome + " for " + place.told + " and with " + outcome + " for " +
           who);
  }
  return &work;
}

/// The value of an input is the position of its op, so results tell from which positions they were made.
void Walk::check_values(const Peer& peer, const Work& work, const ipc::Done& done) {
  if (work.value == 0 || (work.place && work.place->odd)) return;
  if (is_reduction(work.kind) && work.op == muster::ReduceOp::sum && work.kind == Kind::scan) return;
  const bool sums = is_reduction(work.kind) && work.op == muster::ReduceOp::sum;
  const std::int64_t expected = work.value * (sums ? static_cast<std::int64_t>(done.contributors) : 1);
  for (const auto& item : done.items) {
    const auto object = NodeAudit(*node_).held_object(peer.id, item.object);
    if (!object) return broken(client_text(peer.id) + " doesn't hold what it was given");
    const auto bytes = object->manifest.bytes();
    if (bytes != object->bytes) return broken("an object's size is not that of its leaves");
    for (const std::uint64_t offset : {std::uint64_t{0}, bytes - sizeof expected}) {
      std::int64_t value = 0;
      std::memcpy(&value, host_address(object->place(0)) + offset, sizeof value);
      if (value != expected)
        broken("work " + std::to_string(work.id.value) + " of " + client_text(peer.id) + " (" +
               std::string(ipc::name(work.kind)) + ") got " + std::to_string(value) + " where " +
               std::to_string(expected) + " is due: it was made of other positions");
    }
    const bool on_gpu = !object->manifest.leaves[0].device.is_host();
    reached_.note("values of " + std::string(ipc::name(work.kind)) + (on_gpu ? " on a GPU" : ""));
  }
}

}  // namespace musterd::testing
