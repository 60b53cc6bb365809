// A mutex with a rank: who holds one may wait only for one of a higher rank, so that no two threads wait for each
// other. Builds for work check that and end the process on a wrong order. client/core/README.md says what each guards.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace muster::detail {

/// In the order in which they are taken.
enum class Rank : std::uint8_t { forks, submissions, completions, socket, memory, state, connections };

/// The ranks of the locks that one thread holds.
class HeldLocks {
 public:
  /// Whether all that it holds is of a lower rank.
  [[nodiscard]] bool may_wait_for(Rank rank) const;
  void took(Rank rank) { ++held_[static_cast<std::size_t>(rank)]; }
  void gave(Rank rank) { --held_[static_cast<std::size_t>(rank)]; }

  [[nodiscard]] static HeldLocks& of_this_thread();
  /// Ends the process, naming both ranks, if this thread must not wait for a lock of this one.
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
  /// Who does not wait may come in any order.
  [[nodiscard]] bool try_lock() {
    if (!mutex_.try_lock()) return false;
    if constexpr (checks_locks) HeldLocks::of_this_thread().took(rank_);
    return true;
  }
  void unlock() {
    if constexpr (checks_locks) HeldLocks::of_this_thread().gave(rank_);
    mutex_.unlock();
  }
  /// A fork takes the locks of one connection after those of another, which no other path does.
  void lock_for_fork() { mutex_.lock(); }
  void unlock_after_fork() { mutex_.unlock(); }

 private:
  friend class Condition;
  std::mutex mutex_;
  Rank rank_;
};

/// Waits under an OrderedMutex. Its owner is asleep meanwhile, so what it holds stays as it is.
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
