// A random walk through a node: several clients of two users do everything that clients can do, mostly correctly, in an
// order taken from bytes. After each step the invariants are checked. The fuzzer node_fuzz and session_test's
// node_walk_test both run it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/records.hpp>

#include "memory/backings.hpp"
#include "memory/late_backing.hpp"
#include "session/test_decider.hpp"
#include "session/test_lane.hpp"
#include "walk/audit.hpp"
#include "walk/choices.hpp"
#include "walk/reached.hpp"
#include "session/frame_builder.hpp"
#include "session/node.hpp"
#include "session/outside.hpp"

namespace musterd::testing {

namespace ipc = muster::ipc;

/// The GPU of the walk's node. Its lane is the host's.
inline constexpr muster::Device walked_gpu = muster::Device::cuda(0);

/// An invariant that doesn't hold; the message says which.
struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Walk final : private Outside {
 public:
  Walk(std::span<const std::uint8_t> bytes, Reached& reached);
  ~Walk() override;
  Walk(const Walk&) = delete;
  Walk& operator=(const Walk&) = delete;

  /// Walks until all bytes are used. Then all clients go, and nothing may be left. Throws Broken.
  void run();
  /// Returns the steps so far, for people.
  [[nodiscard]] const std::vector<std::string>& steps() const { return steps_; }

 private:
  /// The contributions to one place in one order. They are one op if all is well.
  struct Place {
    std::string name;                    ///< for people
    std::optional<std::string> outcome;  ///< "done", or the error's name
    std::string told;                    ///< who got that outcome first
    bool odd = false;  ///< not all contributions are those of the program, so there are no values to check
  };
  /// Group, epoch, what matches (order, a key, a pair, reform), and how many contributions came there before.
  using PlaceId = std::tuple<std::uint64_t, std::uint32_t, std::string, std::uint64_t>;

  /// Counts contributions by who gave them (a rank, or a newcomer's seat) and by what matches them. A sender and a
  /// receiver count separately.
  using Came = std::tuple<std::uint64_t, std::uint32_t, std::int64_t, std::string>;
  struct Work {
    ipc::Kind kind = ipc::Kind::barrier;
    ipc::WorkId id;
    muster::ReduceOp op = muster::ReduceOp::sum;
    TimePoint deadline;
    std::string outcome;     ///< empty: none yet
    Place* place = nullptr;  ///< null if it has none, or if it is a combine
    Came came;               ///< set if it has a place
    SeatId seat;             ///< 0: a combine
    bool newcomer = false;
    bool lost_seat = false;  ///< nobody could be charged for the work
    std::int64_t value = 0;  ///< of all inputs; 0: unknown
    std::uint64_t group = 0;
    int rank = 0;
    int peer = 0;  ///< for send and recv
    std::int64_t tag = 0;
  };
  struct Lease {
    ipc::SegmentId id;
    std::uint64_t bytes = 0;
    std::uint64_t used = 0;
    bool hard = false;
    bool ready = false;  ///< ready for objects
    std::size_t live = 0;
    muster::Device device;
    WriterMapping memory;
  };
  struct Asked {
    wire::Body what = wire::Body_NONE;
    std::optional<TimePoint> deadline;
    ipc::SegmentId segment;
    bool hard = false;
    muster::Device device;
  };
  struct Written {
    ipc::SubmissionType type;
    std::vector<std::byte> body;
    std::function<void()> read;  ///< called when the node reads it
  };
  struct KnownSeat {
    std::uint32_t epoch = 0;  ///< the epoch that the client was told
    bool newcomer = false;    ///< its calls are not counted for its rank yet
    bool replaces = false;    ///< it replaces a lost member; reforms that were over before don't count for it
  };
  struct Peer {
    ClientId id;
    std::uint32_t user = 0;
    bool rings = false;
    bool greeted = false;
    bool dying = false;
    std::map<SeatId, KnownSeat> seats;
    std::map<ipc::ObjectId, std::uint32_t> holds;
    std::set<ipc::ObjectId> refused;  ///< objects whose seals failed; the client may be told of their end
    std::map<ipc::ObjectId, ipc::SegmentId> sealed;  ///< its own objects that live
    std::map<std::uint64_t, Asked> asked;
    std::map<std::uint64_t, Work> works;
    std::vector<Lease> leases;
    std::set<ipc::SegmentId> in_place;  ///< what it has left in place, until it is told that this is over
    std::set<ipc::SegmentId> readable;
    std::set<ipc::SegmentId> ended;
    std::deque<Written> ring;
    std::uint32_t objects = 0;
    std::uint64_t last_work = 0;
    std::uint64_t last_request = 0;
  };
  struct KnownObject {
    ipc::Capability capability;
    std::uint32_t user = 0;
  };
  struct PeerSeat {
    ClientId client;
    SeatId seat;
    NodeAudit::SeatView view;
  };
  struct Step {
    void (Walk::*run)();
    unsigned weight;
  };

  // walk.cpp: the walk as a whole, and what the node sends to the outside
  static NodeSettings settings(Choices& choices);
  static std::span<const Step> all_steps();
  void step();
  void go_on();
  void finale();
  void everybody_goes();
  void finish_jobs();
  void finish_decisions();
  void finish_copies();
  void finish_lookups();
  void send(ClientId client, std::span<const std::byte> frame, std::span<const int> fds) override;
  muster::Result<void> welcome(ClientId client, std::span<const std::byte> frame) override;
  SegmentTable::Sealing seal_rings(ClientId client) override;
  void greeted(ClientId client) override;
  void complete(ClientId client, ipc::CompletionType type, std::span<const std::byte> body) override;
  void close(ClientId client, const std::string& why, ConnectionCharges charges) override;
  bool after_ring(ClientId client, ClientId asks, std::function<void()> then) override;
  [[nodiscard]] muster::Result<ipc::Fd> watch_lifeline(ClientId client, ClientId heir) override;
  Decider& decider() override { return decider_; }
  Lane* lane(std::span<const muster::Device> /*devices*/) override { return &lane_; }
  static bool forget_sealed(Peer& peer, ipc::ObjectId object);
  void run_blocking(ClientId client, std::function<void()> work, std::function<void()> then) override;
  void dispose(UserId user, Remains remains, std::function<void()> then) override;
  void show_memory_wanted(bool) override {}
  void populate(const SegmentMemoryPtr&) override {}
  bool is_stopped(std::int32_t) override { return false; }
  [[nodiscard]] ipc::Capability random_capability() override { return {{++random_, 17}}; }
  void stop(std::string reason) override;

  // checks.cpp: what must hold
  void broken(const std::string& what);
  void check();
  void give_up_seats(Peer& peer);
  void check_deadlines();
  void check_all_settled();
  void check_nothing_is_left();
  void answered(Peer& peer, const wire::Frame& frame, std::span<const int> fds);
  void take_answer(Peer& peer, const Asked& asked, const wire::Frame& frame, std::span<const int> fds);
  void check_joined(Peer& peer, const wire::Joined& joined);
  void told_done(Peer& peer, const ipc::Done& done);
  void told_failed(Peer& peer, const ipc::Failed& failed);
  Work* settle(Peer& peer, ipc::WorkId id, const std::string& outcome);
  void check_values(const Peer& peer, const Work& work, const ipc::Done& done);

  // steps.cpp: clients, segments, objects
  void say(std::string what);
  Peer* any_peer();
  template <class Make>
  void ask(Peer& peer, wire::Body type, Asked asked, Make make);
  template <class Record>
  void write(Peer& peer, ipc::SubmissionType type, const Record& record, std::function<void()> read = {});
  void deliver(ClientId id, const Written& written);
  void read_ring(ClientId id);
  void forget(ClientId id);
  void connect();
  void greet(Peer& peer);
  void late_hello();
  void lease();
  void ask_lease(Peer& peer, std::uint64_t bytes, std::uint32_t timeout_ms, bool hard, muster::Device device);
  void leave_in_place();
  void mapped();
  void lease_ready(Peer& peer, Lease& lease);
  void give_back();
  void hand_over();
  void map();
  void unmap();
  std::optional<ipc::ObjectId> seal(Peer& peer, std::int64_t value, std::int64_t elements, muster::Device device);
  Lease* room(Peer& peer, std::uint64_t bytes, muster::Device device);
  void seal_some();
  void seal_badly();
  void seal_part();
  void release();
  void release_badly();
  void pin();
  void describe();
  void lookup();
  void token();
  void fork();
  void lifeline_closes();
  void query();
  void bad_request();
  void nonsense();
  void die();
  void time_passes();
  void job_ends();
  void gpu_makes_memory();
  void decision_comes();
  void ring_is_read();
  void stops();

  // groups.cpp: seats and ops
  void join();
  void leave();
  void contribute_one();
  void round();
  void reform_round();
  void combine();
  void contribute(const PeerSeat& seat);
  void contribute_by_program(const PeerSeat& seat, const std::string& key);
  void contribute_pairwise(const PeerSeat& seat);
  void contribute_oddly(const PeerSeat& seat);
  void submit(const PeerSeat& seat, ipc::Contribute contribute, std::int64_t value);
  void take_place(ClientId id, const ipc::Contribute& contribute, std::int64_t value);
  [[nodiscard]] ipc::Contribute programmed(const PeerSeat& seat, const PlaceId& place) const;
  [[nodiscard]] bool give_inputs(const PeerSeat& seat, ipc::Contribute& contribute, std::int64_t value,
                                 std::int64_t elements, muster::Device device = muster::Device::cpu());
  [[nodiscard]] std::int64_t any_timeout();
  [[nodiscard]] static std::string channel_of(const ipc::Contribute& contribute, int rank);
  [[nodiscard]] std::uint64_t group_number(const NodeAudit::SeatView& view);
  [[nodiscard]] std::vector<PeerSeat> all_seats();
  [[nodiscard]] std::vector<PeerSeat> seats_of_one_group();
  [[nodiscard]] static std::uint32_t epoch_of(const NodeAudit::SeatView& view) {
    return view.epoch + (view.newcomer ? 1 : 0);
  }
  [[nodiscard]] Came came(const PeerSeat& seat, const std::string& channel, ipc::Kind kind);
  void promote_newcomers();

  Choices choices_;
  Reached& reached_;
  std::vector<std::string> steps_;
  std::string broken_;
  std::uint64_t salt_ = 0;
  TimePoint now_{std::chrono::hours(1)};
  std::map<ClientId, Peer> peers_;
  std::map<PlaceId, Place> places_;
  std::map<Came, std::uint64_t> came_;
  std::set<std::tuple<std::uint64_t, std::uint32_t, int>>
      seated_;  ///< the ranks of each group's epoch that had a member
  std::map<std::weak_ptr<const void>, std::uint64_t, std::owner_less<>> group_numbers_;
  std::map<ipc::ObjectId, KnownObject> objects_;
  std::vector<ClientId> lifelines_;
  ClientId last_heir_;
  LateBacking gpu_memory_;
  TestLane lane_;
  TestDecider decider_;
  std::vector<std::function<void()>> copied_;  ///< continuations of copies that were made
  std::deque<std::pair<ClientId, std::function<void()>>> after_rings_;
  std::uint32_t last_client_ = 0;
  std::uint64_t random_ = 0;
  bool stop_asked_ = false;
  bool stopped_ = false;
  std::unique_ptr<Node> node_;
};

template <class Make>
void Walk::ask(Peer& peer, wire::Body type, Asked asked, Make make) {
  FrameBuilder out(++peer.last_request);
  const auto body = make(out.fbb);
  const auto bytes = out.finish(type, body.Union());
  asked.what = type;
  peer.asked[out.request] = asked;
  const ClientId id = peer.id;
  // Records that the client wrote into its ring before are handled before.
  read_ring(id);
  if (!peers_.contains(id)) return;
  node_->frame(id, bytes, now_);
  if (const auto again = peers_.find(id); again != peers_.end()) give_up_seats(again->second);
}

template <class Record>
void Walk::write(Peer& peer, ipc::SubmissionType type, const Record& record, std::function<void()> read) {
  Written written{type, {}, std::move(read)};
  ipc::write(record, written.body);
  const ClientId id = peer.id;
  if (peer.rings && choices_.once_in(4)) return peer.ring.push_back(std::move(written));
  read_ring(id);
  if (!peers_.contains(id)) return;
  if (!choices_.once_in(16)) return deliver(id, written);
  reached_.note("record by Submit");
  ask(peer, wire::Body_Submit, {}, [&](auto& fbb) {
    const auto body = fbb.CreateVector(reinterpret_cast<const std::uint8_t*>(written.body.data()), written.body.size());
    if (written.read) written.read();
    return wire::CreateSubmit(fbb, static_cast<std::uint16_t>(type), body);
  });
}

/// Runs the walk of these bytes. If an invariant doesn't hold, or an assert ends the process, prints the steps. Returns
/// what is broken; empty if nothing is.
std::string run_walk(std::span<const std::uint8_t> bytes, Reached& reached);

}  // namespace musterd::testing
