// A mutex with a rank. A thread that holds one may wait only for one of a higher rank, so no two threads wait for each
// other. Development builds check that and end the process on a wrong order. client/core/README.md says what each mutex
// guards.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace muster::detail {

/// In the order in which a thread takes them.
enum class Rank : std::uint8_t { forks, submissions, completions, socket, memory, state, connections };

/// The ranks of the locks that one thread holds.
class HeldLocks {
 public:
  /// Whether every lock that this thread holds has a lower rank.
  [[nodiscard]] bool may_wait_for(Rank rank) const;
  void took(Rank rank) { ++held_[static_cast<std::size_t>(rank)]; }
  void gave(Rank rank) { --held_[static_cast<std::size_t>(rank)]; }

  [[nodiscard]] static HeldLocks& of_this_thread();
  /// If this thread must not wait for a lock of this rank, ends the process and names both ranks.
  void check(Rank rank) const;

 private:
  static constexpr std::size_t ranks = static_cast<std::size_t>(Rank::connections) + 1;
  std::array<std::uint8_t, ranks> held_{};
};

#ifdef MUSTER_CHECK_LOCKS
inline constexpr bool checks_locks = true;
#else
inline constexpr bool checks_locks = false;
#endif

class OrderedMutex {
 public:
  explicit OrderedMutex(Rank rank) : rank_(rank) {}
  OrderedMutex(const OrderedMutex&) = delete;
  OrderedMutex& operator=(const OrderedMutex&) = delete;

  void lock() {
    if constexpr (checks_locks) HeldLocks::of_this_thread().check(rank_);
    mutex_.lock();
    if constexpr (checks_locks) HeldLocks::of_this_thread().took(rank_);
  }
  /// A thread that does not wait may take locks in any order.
  [[nodiscard]] bool try_lock() {
    if (!mutex_.try_lock()) return false;
    if constexpr (checks_locks) HeldLocks::of_this_thread().took(rank_);
    return true;
  }
  void unlock() {
    if constexpr (checks_locks) HeldLocks::of_this_thread().gave(rank_);
    mutex_.unlock();
  }
  /// A fork takes the locks of one connection after those of another. Nothing else does that.
  void lock_for_fork() { mutex_.lock(); }
  void unlock_after_fork() { mutex_.unlock(); }

 private:
  friend class Condition;
  std::mutex mutex_;
  Rank rank_;
};

/// Waits under an OrderedMutex. The thread that waits is asleep meanwhile, so the set of locks that it holds does not
/// change.
class Condition {
 public:
  /// Returns at the time, when notified, or for no reason.
  void wait_until(std::unique_lock<OrderedMutex>& lock, std::chrono::steady_clock::time_point time) {
    std::unique_lock inner(lock.mutex()->mutex_, std::adopt_lock);
    condition_.wait_until(inner, time);
    inner.release();
  }
  void notify_all() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace muster::detail
