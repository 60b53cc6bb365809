// Writes the ring towards the daemon. Releases and deferred records go first. Nothing here waits.
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

/// A record to the daemon. Without a body nothing is written, and the call succeeds once all deferred records are
/// written.
struct Submission {
  ipc::SubmissionType type{};
  std::span<const std::byte> body;
};

class Submissions {
 public:
  Submissions(Channel& channel, GuardedProtocol& protocol);

  /// Returns false if there is no room now. After a write the caller wakes the daemon: Channel::wake_daemon().
  [[nodiscard]] Result<bool> try_write(const Submission& record);
  /// Writes the record now, or before the next one. Returns false if the daemon has left too many of them unread.
  [[nodiscard]] bool write_soon(ipc::SubmissionType type, std::vector<std::byte> body);
  static constexpr std::size_t deferred_max = 4096;
  /// Writes what ended here, unless the ring is full, or another thread is writing and will do it.
  void flush_releases();

  void lock_for_fork();
  void unlock_after_fork();
  /// In a forked child; the parent has locked it.
  void inherit() { deferred_.clear(); }

 private:
  /// Holds the lock, and notes which thread does.
  class Writing;
  struct Deferred {
    ipc::SubmissionType type;
    std::vector<std::byte> body;
  };
  [[nodiscard]] bool write_deferred();
  void write_releases();

  Channel& channel_;
  GuardedProtocol& protocol_;
  OrderedMutex mutex_{Rank::submissions};  ///< guards the members below
  std::atomic<std::thread::id> writer_{};  ///< the thread that holds it
  ipc::RingProducer ring_;
  bool is_populated_ = false;
  std::deque<Deferred> deferred_;
};

}  // namespace muster::detail
