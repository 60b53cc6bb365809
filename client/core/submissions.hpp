// Writes the ring towards the daemon. Releases and what was to go soon go first; nothing here waits.
#pragma once

#include <atomic>
#include <cstddef>
#include <deque>
#include <span>
#include <thread>
#include <vector>

#include <muster/ipc/records.hpp>
#include <muster/ipc/ring.hpp>
#include <muster/result.hpp>

#include "base/ordered_mutex.hpp"
#include "channel.hpp"
#include "guarded_protocol.hpp"

namespace muster::detail {

/// A record to the daemon. One without a body is none, and goes as soon as all that was to go before has gone.
struct Submission {
  ipc::SubmissionType type{};
  std::span<const std::byte> body;
};

class Submissions {
 public:
  Submissions(Channel& channel, GuardedProtocol& protocol);

  /// False: there is no room now. Who has written tells the daemon, unless it polls: Channel::wake_daemon().
  [[nodiscard]] Result<bool> try_write(const Submission& record);
  /// Goes before what is written later, now or with it. False: the daemon has left too many of them unread.
  [[nodiscard]] bool write_soon(ipc::SubmissionType type, std::vector<std::byte> body);
  static constexpr std::size_t deferred_max = 4096;
  /// Tells the daemon what has ended here, unless there is no room, or another thread is writing and does it.
  void flush_releases();

  void lock_for_fork();
  void unlock_after_fork();
  /// In a forked child, whose parent has locked it.
  void inherit() { deferred_.clear(); }

 private:
  /// Holds the lock, and says who does.
  class Writing;
  struct Deferred {
    ipc::SubmissionType type;
    std::vector<std::byte> body;
  };
  [[nodiscard]] bool write_deferred();
  void write_releases();

  Channel& channel_;
  GuardedProtocol& protocol_;
  OrderedMutex mutex_{Rank::submissions};  ///< guards what follows
  std::atomic<std::thread::id> writer_{};  ///< who holds it
  ipc::RingProducer ring_;
  bool is_populated_ = false;
  std::deque<Deferred> deferred_;
};

}  // namespace muster::detail
