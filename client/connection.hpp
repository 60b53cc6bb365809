// This process's connection to the daemon: requests on the socket, records in the rings, and the memory that goes
// with them. Thread-safe and without a thread of its own: whoever waits reads completions and replies for all.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
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

namespace muster::detail {

using SteadyTime = std::chrono::steady_clock::time_point;

/// What the daemon said of itself.
struct Welcome {
  std::string version;
  std::string socket;
  std::uint64_t incarnation = 0;
  ipc::ClientId client;
  std::uint64_t memory_bytes = 0;
  std::uint64_t segment_bytes = 0;
  std::uint32_t in_flight_max = 0;
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
  [[nodiscard]] Segments& segments() { return *segments_; }
  /// False once the daemon is gone, or in a forked child.
  [[nodiscard]] bool alive() const { return !ended_.load() && !inherited_.load(); }
  [[nodiscard]] bool inherited() const { return inherited_.load(); }
  [[nodiscard]] Error end_error() const;

  /// Sends a frame built by `build` and waits for the reply with the same number. A Failure becomes its Error.
  using Build = std::function<std::vector<std::byte>(std::uint64_t request)>;
  /// While: what the caller holds. Nobody may be called back (Ctrl-C) under a lock.
  enum class While : std::uint8_t { unlocked, locked };
  [[nodiscard]] Result<ipc::Packet> request(const Build& build, std::span<const int> fds,
                                            std::chrono::nanoseconds timeout, While held = While::unlocked);

  /// Writes records into the ring, in this order, and wakes the daemon if it sleeps.
  struct Submission {
    ipc::SubmissionType type;
    std::vector<std::byte> body;
  };
  [[nodiscard]] Result<void> submit(std::span<const Submission> records);
  /// A hold of this object ended.
  void release(ipc::ObjectId object);

  [[nodiscard]] ipc::WorkId next_work() { return {++last_work_}; }
  /// Reads completions now and then; called by whoever deposits, while it holds no lock.
  void keep_up();
  [[nodiscard]] ipc::ObjectId next_object();
  [[nodiscard]] ipc::Capability random_capability();
  void add_work(const std::shared_ptr<WorkState>& work);
  void forget_work(ipc::WorkId work);
  void add_seat(const std::shared_ptr<Seat>& seat);

  /// Waits until `over` says so or the time comes; reads completions meanwhile. False: it was the time.
  [[nodiscard]] bool wait(const std::function<bool()>& over, SteadyTime until);
  /// Reads what has come, without waiting.
  void poll();
  /// Calls `callback` when the work is over; at once if it is.
  void on_done(const std::shared_ptr<WorkState>& work, std::function<void()> callback);
  /// Readable when completions may have come since the last poll().
  [[nodiscard]] Result<int> event_fd();

  /// Called at least every 50 ms by whoever waits, while it holds no lock; true ends the wait (Python's Ctrl-C).
  static void set_interrupted(bool (*interrupted)());

  // For fork.cpp.
  void before_fork();
  void after_fork_in_parent();
  void after_fork_in_child();

 private:
  struct Start;
  explicit Connection(Start start);
  static Result<std::shared_ptr<Connection>> attach(const std::string& path, const ConnectOptions& options);
  [[nodiscard]] Result<LeasedSegment> lease_segment(std::uint64_t bytes, std::chrono::nanoseconds timeout);
  [[nodiscard]] Result<SegmentHandle> map_segment(ipc::SegmentId segment);

  // socket
  bool receive_replies(std::chrono::milliseconds timeout);
  bool receive_if_free();
  void take_packet(ipc::Packet packet);
  void end(const Error& error);
  // completion ring
  bool drain();
  using Callbacks = std::vector<std::function<void()>>;
  void handle(const ipc::Record& record, Callbacks& callbacks);
  void finish(const std::shared_ptr<WorkState>& work, Result<Outcome> outcome, ipc::Done done, Callbacks& callbacks);
  void sleep_for_completions(SteadyTime until);
  [[nodiscard]] ipc::ChannelHeader& header() const { return *reinterpret_cast<ipc::ChannelHeader*>(channel_.data()); }
  [[nodiscard]] std::byte* ring(std::size_t index) const {
    return channel_.data() + ipc::channel_header_bytes + index * ipc::ring_bytes;
  }

  Welcome welcome_;
  ipc::Fd socket_;
  ipc::Fd doorbell_;
  ipc::Fd notify_;
  ipc::Fd events_;  ///< an epoll of notify_ and the socket
  ipc::Mapping channel_;
  std::atomic<bool> ended_{false};
  std::atomic<bool> inherited_{false};
  mutable std::mutex end_mutex_;
  std::optional<Error> end_error_;

  std::mutex send_mutex_;
  std::mutex reply_mutex_;
  std::condition_variable replies_changed_;
  std::unordered_map<std::uint64_t, std::optional<ipc::Packet>> replies_;  ///< of requests that somebody waits for
  bool receiving_ = false;
  std::uint64_t last_request_ = 0;

  std::mutex submit_mutex_;
  ipc::RingProducer submissions_;
  bool channel_populated_ = false;  ///< guarded by submit_mutex_

  std::mutex drain_mutex_;  ///< held by the one who reads the completion ring
  std::condition_variable drained_;
  std::mutex role_mutex_;
  bool draining_ = false;
  ipc::RingConsumer completions_;
  std::atomic<bool> notify_wanted_{false};

  std::mutex works_mutex_;
  std::unordered_map<ipc::WorkId, std::shared_ptr<WorkState>> works_;
  std::unordered_map<ipc::SeatId, std::weak_ptr<Seat>> seats_;

  std::atomic<std::uint64_t> last_work_{0};
  std::atomic<std::uint32_t> last_object_{0};
  std::mutex random_mutex_;
  std::vector<std::uint64_t> random_;
  struct ForkCopy {
    std::byte* address;
    std::vector<std::byte> bytes;
  };
  void unlock_after_fork();
  ipc::Fd lifeline_;                   ///< of a fork: the child's end
  std::vector<ForkCopy> fork_copies_;  ///< live unsealed regions, between before_fork() and its end

  std::unique_ptr<Segments> segments_;
  std::unique_ptr<Arena> arena_;
};

/// Regions of the arena that become an object with one hold of this process. `addresses`: any address inside each
/// region.
[[nodiscard]] Result<Ref> seal(const std::shared_ptr<Connection>& connection, ipc::Manifest manifest,
                               std::span<const std::byte* const> addresses, std::uint64_t copied_bytes);
/// An object made of parts of another's bytes; nothing is copied.
[[nodiscard]] Result<Ref> derive(const Ref& whole, ipc::Manifest manifest);
/// Part `index` of `parts` equal parts of a plain array along axis 0.
[[nodiscard]] Result<Ref> slice(const Ref& whole, std::int64_t first_row, std::int64_t rows);

/// Starts an op over objects of this process.
[[nodiscard]] Result<Work> combine(const std::shared_ptr<Connection>& connection, ipc::Combine record,
                                   std::span<const Ref> inputs, const OpOptions& options);

}  // namespace muster::detail
