// This process's connection to the daemon: requests on the socket, records in the rings, and the memory that goes
// with them. Thread-safe and without a thread of its own: a thread that waits reads completions and replies for all.
#pragma once

#include <array>
#include <atomic>
#include <boost/unordered/unordered_flat_map.hpp>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/ipc/records.hpp>
#include <muster/ipc/ring.hpp>
#include <muster/ipc/socket.hpp>
#include <muster/options.hpp>
#include <muster/ref.hpp>
#include <muster/result.hpp>

#include "arena.hpp"
#include "segments.hpp"
#include "work_state.hpp"

namespace muster::ipc::wire {
enum Body : std::uint8_t;
}

namespace muster::detail {

struct Lease;

using SteadyTime = std::chrono::steady_clock::time_point;

/// What the daemon said of itself.
struct Welcome {
  std::string version;
  std::string socket;
  std::uint64_t incarnation = 0;
  ipc::ClientId client;
  std::uint64_t memory_bytes = 0;
  std::uint32_t segments_about = 0;  ///< how many a process should hold at most
  std::uint32_t in_flight_max = 0;
  std::chrono::milliseconds pickle_lease{};
};

/// A buffer for a record's body that its thread uses again and again; one inside another is a fresh one.
class Scratch {
 public:
  Scratch() {
    bytes_.swap(spare());
    bytes_.clear();
  }
  ~Scratch() { bytes_.swap(spare()); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::vector<std::byte>& operator*() { return bytes_; }

 private:
  static std::vector<std::byte>& spare();
  std::vector<std::byte> bytes_;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  /// Connects and greets; starts a daemon if there is none and the options allow it. DaemonUnavailable otherwise.
  [[nodiscard]] static Result<std::shared_ptr<Connection>> open(const ConnectOptions& options);
  /// The open connection of this process to that socket (empty: any), if there is one.
  [[nodiscard]] static std::shared_ptr<Connection> existing(const std::string& socket);
  /// The open one to that socket if there is one, else a new one.
  [[nodiscard]] static Result<std::shared_ptr<Connection>> open_or_reuse(const ConnectOptions& options);
  ~Connection();

  [[nodiscard]] const Welcome& welcome() const { return welcome_; }
  [[nodiscard]] Arena& arena() { return *arena_; }
  /// The object is on its way to others: what it keeps for them must not depend on what this process does.
  [[nodiscard]] Result<void> share(ipc::ObjectId object);
  [[nodiscard]] Segments& segments() { return *segments_; }
  /// False once the daemon is gone, or in a forked child.
  [[nodiscard]] bool alive() const { return !ended_.load() && !inherited_.load(); }
  /// The same, and looks: nobody may have noticed yet that the daemon has ended.
  [[nodiscard]] bool still_served();
  [[nodiscard]] bool inherited() const { return inherited_.load(); }
  [[nodiscard]] Error end_error() const;

  /// Sends a frame built by `build` and waits for the reply with the same number. A Failure becomes its Error.
  /// What a reply that comes after nobody waits for it any more has brought is given back. The caller holds no lock.
  using Build = std::function<std::vector<std::byte>(std::uint64_t request)>;
  /// `stop`, if any, is asked now and then while the answer is not there; true ends the wait with Timeout.
  using Stop = std::function<bool()>;
  [[nodiscard]] Result<ipc::Packet> request(const Build& build, std::chrono::nanoseconds timeout,
                                            const Stop& stop = {});
  /// Waits until nothing of this kind that was given up can still be granted: what was is given back before anything
  /// that is asked from here on.
  void settle_abandoned(ipc::wire::Body asked, SteadyTime until);
  /// Sends a frame whose reply nobody waits for; a socket that is full now swallows it.
  void tell(const Build& build);

  /// Writes a record into the ring and wakes the daemon if it sleeps. One that is too large for the ring goes by the
  /// socket, in parts; Invalid if it is too large for that, too. Waits while the ring is full, at most 30 s: Timeout.
  /// The caller holds no lock.
  [[nodiscard]] Result<void> submit(ipc::SubmissionType type, std::span<const std::byte> body);
  /// Sends a record before any that is submitted later, now or with the next one. Never waits. A daemon that has left
  /// too many of them unread does not read any more: the connection ends.
  void submit_soon(ipc::SubmissionType type, std::vector<std::byte> body);
  /// The same without waiting. False: that would have been needed, and nothing was written.
  [[nodiscard]] Result<bool> submit_now(ipc::SubmissionType type, std::span<const std::byte> body);
  void add_hold() { ++holds_; }
  /// A hold of this object ended. What finds no room in the ring goes with what is written next. Waits for the news of
  /// its end only where this process would otherwise keep too much memory, and not for long if others may hold it.
  void release(ipc::ObjectId object, bool shared);
  /// Why this process's own object never came to be; nothing if it did, as far as is known.
  [[nodiscard]] std::optional<Error> seal_error(ipc::ObjectId object) const;

  [[nodiscard]] ipc::WorkId next_work() { return {++last_work_}; }
  [[nodiscard]] ipc::ObjectId next_object();
  [[nodiscard]] ipc::Capability random_capability();
  void add_work(const std::shared_ptr<WorkState>& work);
  /// False: it is over already.
  bool forget_work(ipc::WorkId work);
  void add_seat(const std::shared_ptr<Seat>& seat);
  void forget_seat(ipc::SeatId seat);
  /// A hard lease is outside of the arena, yet a forked child must not write into it either.
  void add_hard_lease(const LeasedSegment& segment);
  void forget_hard_lease(ipc::SegmentId segment);

  /// Waits until `over` says so or the time comes; reads completions meanwhile. False: it was the time.
  [[nodiscard]] bool wait(const std::function<bool()>& over, SteadyTime until);
  /// Reads what has come and calls back whom it concerns, without waiting.
  void poll();
  /// Reads what has come, and calls nobody back: for callers that run in the middle of somebody else's code.
  void collect();
  /// Calls back those whose works are over. Waiting and polling do, too.
  void run_callbacks();
  /// Calls `callback` when the work is over; at once if it is.
  void on_done(const std::shared_ptr<WorkState>& work, std::function<void()> callback);
  /// Readable when completions may have come since the last poll().
  [[nodiscard]] Result<int> event_fd();

  /// Called at least every 50 ms by a waiting thread, while it holds no lock; true ends the wait (Python's Ctrl-C).
  static void set_interrupted(bool (*interrupted)());

  // For fork.cpp.
  void before_fork();
  void after_fork_in_parent();
  void after_fork_in_child();

 private:
  struct Start;
  explicit Connection(Start start);
  static Result<std::shared_ptr<Connection>> attach(const std::string& path, const ConnectOptions& options,
                                                    SteadyTime until);
  [[nodiscard]] Result<LeasedSegment> lease_segment(std::uint64_t bytes, std::chrono::nanoseconds timeout,
                                                    const Stop& stop);
  [[nodiscard]] Result<SegmentHandle> map_segment(ipc::SegmentId segment);

  // exchange.cpp: the socket
  /// False: there is no room now. What could not be told before goes first; an empty frame sends only that.
  [[nodiscard]] Result<bool> try_send(std::span<const std::byte> frame);
  [[nodiscard]] Result<void> send_frame(std::span<const std::byte> frame, SteadyTime until);
  bool receive_replies(std::chrono::milliseconds timeout);
  bool receive_if_free();
  void take_packet(ipc::Packet packet);
  void give_back(ipc::wire::Body asked, const ipc::Packet& late);
  Error abandon(std::uint64_t request, ipc::wire::Body asked, Error error);
  void end(const Error& error);

  // submissions.cpp: the ring towards the daemon
  struct Submission {
    ipc::SubmissionType type{};
    std::span<const std::byte> body;
  };
  [[nodiscard]] Result<void> submit_by_socket(const Submission& record, std::chrono::nanoseconds timeout);
  void announce(ipc::SubmissionType type);
  [[nodiscard]] Result<void> submit_when_there_is_room(const Submission& record, SteadyTime latest);
  [[nodiscard]] Result<bool> try_submit(const Submission& record);
  void ring_doorbell();
  bool write_deferred();
  void write_releases();
  bool write_unmapped();
  void flush_releases();
  void tell_unmapped(ipc::SegmentId segment);
  /// True if there was one.
  bool forget_seal_error(ipc::ObjectId object);
  /// Whether others wait for memory of the store now. A forked child has no rings to see it in.
  [[nodiscard]] bool memory_wanted() const {
    return alive() && header().memory_wanted.load(std::memory_order_relaxed) != 0;
  }
  void await_end(ipc::ObjectId object, std::chrono::nanoseconds patience, std::atomic<SteadyTime>& wait_again);
  /// When to wait again for the end of an object that nobody else holds, and of one that others may hold.
  std::array<std::atomic<SteadyTime>, 2> wait_again_{};

  // completions.cpp: the ring from the daemon
  using Callbacks = std::vector<std::function<void()>>;
  /// What follows from completions once the ring's lock is no longer held.
  struct Aftermath {
    std::vector<ipc::ObjectId> gone;
    std::vector<ipc::SegmentId> segments_gone;
    bool memory_wanted = false;
    ipc::SmallVector<std::shared_ptr<WorkState>, 4> over;
    ipc::SmallVector<std::shared_ptr<Seat>, 4> seats;
    std::vector<Outcome> unwanted;  ///< of ops whose Work was dropped
  };
  /// An op that the daemon works on. Its Work may be gone: then what it brings is given back.
  struct InFlight {
    std::weak_ptr<WorkState> work;
    std::shared_ptr<WorkState> kept;  ///< while somebody wants to be called back
    std::weak_ptr<Seat> seat;
  };
  [[nodiscard]] bool has_completions() const;
  bool drain();
  static thread_local bool drains_here;  ///< this thread reads some ring, and what follows from that happens
  [[nodiscard]] Result<void> handle(const ipc::Record& record, Aftermath& aftermath);
  [[nodiscard]] Result<void> handle_done(const ipc::Record& record, Aftermath& aftermath);
  [[nodiscard]] Result<void> handle_change(const ipc::Record& record);
  [[nodiscard]] std::optional<InFlight> take_in_flight(ipc::WorkId work);
  void finish(InFlight&& op, Result<Outcome>&& outcome, ipc::Done&& done, Aftermath& aftermath);
  void wake_waiters();
  void read_for_all(const std::function<bool()>& over, SteadyTime until);
  void sleep_for_completions(const std::function<bool()>& over, SteadyTime until);
  void look_at_socket();
  [[nodiscard]] ipc::ChannelHeader& header() const { return *reinterpret_cast<ipc::ChannelHeader*>(channel_.data()); }
  [[nodiscard]] std::byte* ring(std::size_t index) const {
    return channel_.data() + ipc::channel_header_bytes + index * ipc::ring_bytes;
  }

  Welcome welcome_;
  ipc::Fd socket_;
  ipc::Fd doorbell_;
  ipc::Fd notify_;
  ipc::Fd events_;  ///< an epoll of notify_, the socket and woken_
  ipc::Fd woken_;   ///< an eventfd by which this process wakes its own event loop
  ipc::Mapping channel_;
  std::atomic<bool> ended_{false};
  std::atomic<bool> inherited_{false};
  mutable std::mutex end_mutex_;
  bool ending_ = false;
  std::optional<Error> end_error_;

  std::mutex send_mutex_;
  std::deque<std::vector<std::byte>> untold_;  ///< frames of tell() for which there was no room
  std::atomic<bool> has_untold_{false};
  std::mutex reply_mutex_;
  std::condition_variable replies_changed_;
  std::unordered_map<std::uint64_t, std::optional<ipc::Packet>> replies_;  ///< of requests that somebody waits for
  std::unordered_map<std::uint64_t, std::uint8_t> abandoned_;              ///< what was asked and is still to come
  bool receiving_ = false;
  ipc::Packet incoming_;  ///< of the thread that receives
  std::uint64_t last_request_ = 0;
  std::atomic<std::int64_t> next_look_ns_{0};

  /// Held while a record goes out in parts. Under it only a request's own locks are taken.
  std::mutex parts_mutex_;
  std::mutex submit_mutex_;
  std::atomic<std::thread::id> submitter_{};  ///< who holds submit_mutex_
  ipc::RingProducer submissions_;
  bool channel_populated_ = false;  ///< guarded by submit_mutex_
  struct Deferred {
    ipc::SubmissionType type;
    std::vector<std::byte> body;
  };
  static constexpr std::size_t deferred_max = 4096;
  std::deque<Deferred> deferred_;  ///< go before what is submitted next; guarded by submit_mutex_
  std::mutex releases_mutex_;
  ipc::ObjectIds releases_;               ///< not yet written
  std::vector<ipc::SegmentId> unmapped_;  ///< the same
  std::atomic<bool> has_releases_{false};
  std::atomic<std::uint64_t> holds_{0};

  std::mutex drain_mutex_;  ///< held by the one who reads the completion ring
  std::condition_variable drained_;
  std::mutex role_mutex_;
  bool draining_ = false;
  ipc::Patience patience_;  ///< of the one who is draining
  ipc::RingConsumer completions_;
  std::atomic<bool> notify_wanted_{false};
  std::mutex callbacks_mutex_;
  Callbacks due_callbacks_;
  std::atomic<bool> has_callbacks_{false};

  mutable std::mutex works_mutex_;
  boost::unordered_flat_map<ipc::WorkId, InFlight, std::hash<ipc::WorkId>> works_;
  std::unordered_map<ipc::SeatId, std::weak_ptr<Seat>> seats_;
  std::unordered_map<ipc::SeatId, ipc::GroupChanged> early_changes_;  ///< of seats whose Joined is still on its way
  std::unordered_map<ipc::ObjectId, Error> seal_errors_;              ///< until the object's hold is gone
  std::atomic<bool> has_seal_errors_{false};

  std::atomic<std::uint64_t> last_work_{0};
  std::atomic<std::uint32_t> last_object_{0};
  std::mutex random_mutex_;
  std::vector<std::uint64_t> random_;

  struct Stretch {
    std::byte* address;
    std::uint64_t bytes;
    int fd;
    std::uint64_t offset;  ///< of its first byte in the file
  };
  struct ForkCopy {
    std::byte* address;
    std::vector<std::byte> bytes;
    bool whole;
  };
  void unlock_after_fork();
  void copy_for_child(const Stretch& stretch);
  std::mutex hard_mutex_;
  std::map<ipc::SegmentId, Stretch> hard_leases_;
  std::atomic<bool> has_forked_{false};  ///< children may hold what this process did
  ipc::Fd lifeline_;                     ///< of a fork: the child's end
  std::vector<ForkCopy> fork_copies_;    ///< live unsealed regions, between before_fork() and its end

  std::unique_ptr<Segments> segments_;
  std::unique_ptr<Arena> arena_;
};

/// Called around a wait, and only around one: a caller who holds a lock that others want gives it up meanwhile.
using AroundWait = Result<void> (*)(const std::function<Result<void>()>& wait);
/// Regions of the arena that become an object with one hold of this process. `addresses`: any address inside each
/// region.
[[nodiscard]] Result<Ref> seal(const std::shared_ptr<Connection>& connection, ipc::Manifest manifest,
                               std::span<const std::byte* const> addresses, std::uint64_t copied_bytes,
                               AroundWait around = nullptr);
/// A hard lease becomes an object that nobody can write any more, this process included.
[[nodiscard]] Result<Ref> seal_hard(Lease& lease, ipc::Manifest manifest);
/// An object made of parts of another's bytes; nothing is copied.
[[nodiscard]] Result<Ref> derive(const Ref& whole, ipc::Manifest manifest);
/// Rows of a plain array, along axis 0.
[[nodiscard]] Result<Ref> slice(const Ref& whole, std::int64_t first_row, std::int64_t rows);

/// Invalid: the daemon takes a record with a number that is none as the end of the connection.
[[nodiscard]] Result<void> check_reduce_op(ReduceOp op);
/// Starts an op over objects of this process.
[[nodiscard]] Result<Work> combine(const std::shared_ptr<Connection>& connection, ipc::Combine record,
                                   std::span<const Ref> inputs, const OpOptions& options);

}  // namespace muster::detail
