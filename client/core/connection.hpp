// This process's connection to the daemon: the protocol's state, three parts that carry it out, and the memory that
// belongs to it. It is thread-safe and has no thread of its own: a thread that waits reads for all. README.md names the
// locks and their order. It is one class, as its calls use the protocol and all three parts together, in the order of
// their locks.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/ipc/records.hpp>
#include <muster/ipc/socket.hpp>
#include <muster/options.hpp>
#include <muster/result.hpp>

#include "base/ordered_mutex.hpp"
#include "channel.hpp"
#include "completions.hpp"
#include "exchange.hpp"
#include "guarded_protocol.hpp"
#include "memory/arenas.hpp"
#include "memory/fork_copies.hpp"
#include "memory/hold.hpp"
#include "memory/left_in_place.hpp"
#include "memory/segments.hpp"
#include "names.hpp"
#include "submissions.hpp"
#include "turn.hpp"
#include "welcome.hpp"

namespace muster::ipc::wire {
enum Body : std::uint8_t;
}

namespace muster::detail {

using SteadyTime = std::chrono::steady_clock::time_point;

class Connection : public std::enable_shared_from_this<Connection>, public HoldKeeper {
 public:
  // ---- opening and ending: connection.cpp ----
  /// Connects and greets. Starts a daemon if there is none and the options allow it; otherwise returns
  /// DaemonUnavailable.
  [[nodiscard]] static Result<std::shared_ptr<Connection>> open(const ConnectOptions& options);
  /// Returns this process's open connection to that socket (empty: to any), if there is one.
  [[nodiscard]] static std::shared_ptr<Connection> existing(const std::string& socket);
  /// Returns the open connection to that socket if there is one, and opens one otherwise.
  [[nodiscard]] static Result<std::shared_ptr<Connection>> open_or_reuse(const ConnectOptions& options);
  ~Connection() override;

  [[nodiscard]] const Welcome& welcome() const { return welcome_; }
  /// False once the daemon is gone, or in a forked child.
  [[nodiscard]] bool alive() const { return protocol_.alive(); }
  /// Like alive(), but looks at the socket first: nobody may have noticed yet that the daemon has ended.
  [[nodiscard]] bool still_served();
  [[nodiscard]] bool inherited() const { return protocol_.inherited(); }
  [[nodiscard]] Error end_error();

  /// The host's.
  [[nodiscard]] Arena& arena() { return arenas_->host(); }
  [[nodiscard]] Arenas& arenas() { return *arenas_; }
  [[nodiscard]] Segments& segments() { return *segments_; }
  /// How much of the daemon's memory this process may pin.
  [[nodiscard]] PinLimit& pins() { return pins_; }
  [[nodiscard]] LeftInPlace& left_in_place() { return *left_in_place_; }
  /// Leaves memory of this process where it is, and returns its segment; `owner` keeps it until nobody else has it
  /// open.
  [[nodiscard]] Result<ipc::SegmentId> leave_in_place(CudaSharedPtr memory, Device device, LeftInPlace::Owner owner,
                                                      std::chrono::nanoseconds timeout);
  /// Call it before the object goes to other processes: what they hold must not depend on what this process does later.
  [[nodiscard]] Result<void> share(ipc::ObjectId object);
  [[nodiscard]] Names& names() { return names_; }
  /// See GuardedProtocol. The lock also guards the successors of this connection's holds.
  template <class Do>
  decltype(auto) locked(Do&& what) {
    return protocol_.locked(std::forward<Do>(what));
  }

  // ---- requests on the socket: asking.cpp ----
  /// Sends a frame built by `build` and waits for the reply with the same number. If the reply is a Failure, returns
  /// its Error. If a reply comes after the caller has given up, what it brought is given back. The caller holds no
  /// lock.
  using Build = std::function<std::vector<std::byte>(std::uint64_t request)>;
  /// `stop`, if any, is asked now and then while there is no answer; if it returns true, the wait ends with Timeout.
  using Stop = std::function<bool()>;
  [[nodiscard]] Result<ipc::Packet> request(const Build& build, std::chrono::nanoseconds timeout,
                                            const Stop& stop = {});
  /// Waits until the daemon can no longer grant an abandoned request of this kind. What it granted is given back before
  /// any later request.
  void settle_abandoned(ipc::wire::Body asked, SteadyTime until);
  /// Sends a frame whose reply nobody waits for. If the socket is full, the frame is sent later.
  void tell(const Build& build);

  // ---- records to the daemon: submitting.cpp ----
  /// Writes a record into the ring and wakes the daemon if it sleeps. A record that is too large for the ring goes
  /// through the socket, in parts; Invalid if it is too large for that, too. Waits at most 30 s for room in the ring,
  /// and 30 s for the answer to each part, then returns Timeout. The caller holds no lock.
  [[nodiscard]] Result<void> submit(ipc::SubmissionType type, std::span<const std::byte> body);
  /// The same without waiting. Returns false if it would have to wait; then nothing was written.
  [[nodiscard]] Result<bool> submit_now(ipc::SubmissionType type, std::span<const std::byte> body);
  /// Sends a record before any record that is submitted later: now, or with the next one. Never waits. If the daemon
  /// has left too many such records unread, it has stopped reading, and the connection ends.
  void submit_soon(ipc::SubmissionType type, std::vector<std::byte> body);
  void hold_began() override { ++holds_; }
  /// If the ring has no room, the release goes with the next record. Waits for the news of the object's end only if
  /// this process would otherwise keep too much memory, and only briefly if others may hold the object.
  void hold_ended(ipc::ObjectId object, bool shared) override;
  /// Why the daemon refused the seal of this process's own object. Nothing if, as far as is known, it accepted it.
  [[nodiscard]] std::optional<Error> seal_error(ipc::ObjectId object);

  // ---- records from the daemon: waiting.cpp ----
  /// Waits until `over` returns true or the time is `until`, and reads completions meanwhile. Returns false on the
  /// latter.
  [[nodiscard]] bool wait(const std::function<bool()>& over, SteadyTime until);
  /// Reads what has come and calls back those who wait for it. Never waits.
  void poll();
  /// Reads what has come, and calls nobody back. For callers that run in the middle of somebody else's code.
  void collect();
  /// Calls back those whose works are over. Waiting and polling do that, too.
  void run_callbacks();
  /// Calls `callback` when the work is over; at once if it is over already.
  void on_done(const std::shared_ptr<WorkState>& work, std::function<void()> callback);
  /// Readable when completions may have come since the last poll().
  [[nodiscard]] Result<int> event_fd();

  // ---- fork.cpp ----
  void before_fork();
  void after_fork_in_parent();
  void after_fork_in_child();

 private:
  struct Start;
  explicit Connection(Start start);
  [[nodiscard]] static Result<Channel> map_channel(const ipc::Fd& memory, const std::string& path);
  static Result<std::shared_ptr<Connection>> attach(const std::string& path, const ConnectOptions& options,
                                                    SteadyTime until);
  void end(const Error& error);
  [[nodiscard]] std::unique_ptr<Arena> make_arena(Device device, std::uint64_t memory_bytes);
  [[nodiscard]] std::unique_ptr<Arenas> make_arenas();
  [[nodiscard]] Result<LeasedSegment> lease_segment(Device device, std::uint64_t bytes,
                                                    std::chrono::nanoseconds timeout, const Stop& stop);
  [[nodiscard]] Result<SegmentHandle> map_segment(ipc::SegmentId segment);
  void tell_unmapped(ipc::SegmentId segment);

  [[nodiscard]] Result<bool> begin_request(std::uint64_t request, ipc::wire::Body asked, SteadyTime until,
                                           const Stop& stop);
  void receive_or_wait(std::uint64_t seen, std::chrono::milliseconds at_most);
  [[nodiscard]] Result<void> send_frame(std::span<const std::byte> frame, SteadyTime until);
  bool receive(std::chrono::milliseconds timeout);
  bool receive_if_free();
  void take_packet(ipc::Packet packet);
  void give_back(ipc::wire::Body asked, const ipc::Packet& late);
  Error abandon(std::uint64_t request, ipc::wire::Body asked, Error error);
  void look_at_socket();

  [[nodiscard]] Result<void> submit_by_socket(const Submission& record, std::chrono::nanoseconds timeout);
  [[nodiscard]] Result<void> send_parts(const Submission& record, std::chrono::nanoseconds timeout);
  [[nodiscard]] Result<void> submit_when_there_is_room(const Submission& record, SteadyTime latest);
  void announce(ipc::SubmissionType type);
  void await_end(ipc::ObjectId object, std::chrono::nanoseconds patience, std::atomic<SteadyTime>& wait_again);

  struct Aftermath;
  [[nodiscard]] Result<void> handle(const ipc::Record& record, Aftermath& aftermath);
  [[nodiscard]] Result<void> handle_done(const ipc::Record& record, Aftermath& aftermath);
  [[nodiscard]] Result<void> handle_object(const ipc::Record& record, Aftermath& aftermath);
  bool drain();
  void settle(Aftermath& aftermath);
  void wake_waiters();
  void unlock_after_fork();
  void read_for_all(const std::function<bool()>& over, SteadyTime until);
  static thread_local bool
      drains_here;  ///< this thread is reading some connection's ring, or handling what follows from it

  Welcome welcome_;
  GuardedProtocol protocol_;
  Names names_;
  Channel channel_;
  Exchange exchange_;
  Submissions submissions_;
  Completions completions_;
  Turn receiving_;          ///< whose turn it is to read the socket
  Turn reading_;            ///< whose turn it is to read the ring of completions
  Turn sending_parts_;      ///< whose turn it is to send the parts of a record that is too large for the ring
  ipc::Patience patience_;  ///< for the thread whose turn it is to read
  std::atomic<std::int64_t> next_look_ns_{0};
  std::atomic<std::uint64_t> holds_{0};
  /// When to wait again for an object's end: first for objects that nobody else holds, then for those that others may
  /// hold.
  std::array<std::atomic<SteadyTime>, 2> wait_again_{};

  std::atomic<bool> has_forked_{false};  ///< children may hold what this process held
  ipc::Fd lifeline_;                     ///< the child's end of a fork's life line
  ForkCopies fork_copies_;               ///< used between before_fork() and the end of the fork

  OrderedMutex memory_mutex_{Rank::memory};
  PinLimit pins_;
  std::unique_ptr<Segments> segments_;
  std::unique_ptr<LeftInPlace> left_in_place_;
  std::unique_ptr<Arenas> arenas_;
};

}  // namespace muster::detail
