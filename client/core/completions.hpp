// Reads the ring from the daemon, and sleeps until the ring has a record. Others interpret the records.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>

#include <muster/ipc/failpoint.hpp>
#include <muster/ipc/fd.hpp>
#include <muster/ipc/ring.hpp>
#include <muster/result.hpp>

#include "base/ordered_mutex.hpp"
#include "channel.hpp"

namespace muster::detail {

class Completions {
 public:
  explicit Completions(Channel& channel);

  [[nodiscard]] bool any() const {
    const auto& head = channel_.header();
    return head.completion_tail.load(std::memory_order_relaxed) != head.completion_head.load(std::memory_order_relaxed);
  }
  struct Read {
    bool any = false;
    std::optional<Error> broken;  ///< the ring makes no sense, or `handle` could not make sense of a record
  };
  /// Hands over all records, one after the other, under the lock. `handle` is Result<void> handle(const ipc::Record&).
  template <class Handle>
  [[nodiscard]] Read read(const Handle& handle);

  /// Sleeps until the ring has a record, somebody wakes the sleepers, `over` returns true, or the time is `until`.
  template <class Over>
  void sleep(const Over& over, std::chrono::steady_clock::time_point until);
  void wake_sleepers();

  // ---- event loops ----
  /// Readable when a record or a packet on the socket may have come since the last rearm().
  [[nodiscard]] Result<int> event_fd(int socket);
  [[nodiscard]] bool is_watched() const { return watched_; }
  /// The event loop knows of everything that has come so far.
  void heard() { ipc::drain(woken_); }
  /// Asks to be told of what comes from here on. Returns false if that was still asked.
  [[nodiscard]] bool rearm();
  void silence() { ipc::silence(channel_.notify); }
  /// Nothing can come any more. Wakes the event loop once; without this, the socket at its end would wake it for ever.
  void end_events(int socket);

  void lock_for_fork() { mutex_.lock_for_fork(); }
  void unlock_after_fork() { mutex_.unlock_after_fork(); }
  /// In a forked child.
  void inherit() {
    events_.reset();
    woken_.reset();
  }

 private:
  [[nodiscard]] bool has_nothing() {
    const std::lock_guard lock(mutex_);
    return ring_.empty();
  }
  void sleep_on(std::chrono::steady_clock::time_point until);

  Channel& channel_;
  OrderedMutex mutex_{Rank::completions};  ///< held by the thread that reads; guards the members below
  ipc::RingConsumer ring_;
  ipc::Fd events_;  ///< an epoll of the channel's bell, the socket and woken_
  ipc::Fd woken_;   ///< an eventfd by which this process wakes its own event loop
  std::atomic<bool> watched_{false};
};

template <class Handle>
Completions::Read Completions::read(const Handle& handle) {
  Read read;
  const std::lock_guard lock(mutex_);
  for (;;) {
    auto record = ring_.next();
    if (!record) read.broken = record.error();
    if (!record || !*record) break;
    read.any = true;
    auto handled = handle(**record);
    if (handled) continue;
    read.broken = handled.error();
    break;
  }
  if (read.any && channel_.header().completions_wait.load(std::memory_order_seq_cst) != 0)
    ipc::signal(channel_.doorbell);
  return read;
}

template <class Over>
void Completions::sleep(const Over& over, std::chrono::steady_clock::time_point until) {
  auto& sleeps = channel_.header().client_sleeps;
  sleeps.store(1, std::memory_order_seq_cst);
  const bool nothing_came = has_nothing();
  MUSTER_FAILPOINT(waiting);
  // Another thread may have read what we wait for before it could see that we sleep.
  if (nothing_came && !over()) sleep_on(until);
  sleeps.store(0, std::memory_order_seq_cst);
}

}  // namespace muster::detail
