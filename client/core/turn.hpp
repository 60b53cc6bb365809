// One thread at a time does something for all, such as reading the ring. It has the turn; the others wait for its news.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <utility>

#include "base/ordered_mutex.hpp"

namespace muster::detail {

class Turn {
 public:
  /// Gives up the turn of this thread when it is destroyed.
  class Having {
   public:
    explicit Having(Turn& turn) : turn_(turn) {}
    Having(const Having&) = delete;
    Having& operator=(const Having&) = delete;
    ~Having() { turn_.give(); }

   private:
    Turn& turn_;
  };

  /// `mutex` is that of the connection's state.
  explicit Turn(OrderedMutex& mutex) : mutex_(mutex) {}

  /// Call it before you look at what news may change; then you miss no news.
  [[nodiscard]] std::uint64_t seen() const { return news_.load(std::memory_order_acquire); }
  [[nodiscard]] bool try_take() {
    const std::lock_guard lock(mutex_);
    return take();
  }
  /// Returns true if this thread now has the turn; it must make a Having. Returns false if there is news since `seen`,
  /// if the time is `until`, or for no reason.
  [[nodiscard]] bool take_or_wait(std::uint64_t seen, std::chrono::steady_clock::time_point until) {
    std::unique_lock lock(mutex_);
    if (take()) return true;
    if (news_.load(std::memory_order_relaxed) == seen) changed_.wait_until(lock, until);
    return false;
  }
  /// Call it when something has changed that others may wait for.
  void tell() {
    {
      const std::lock_guard lock(mutex_);
      ++news_;
    }
    changed_.notify_all();
  }

 private:
  void give() {
    {
      const std::lock_guard lock(mutex_);
      taken_ = false;
      ++news_;
    }
    changed_.notify_all();
  }
  [[nodiscard]] bool take() { return !std::exchange(taken_, true); }

  OrderedMutex& mutex_;
  Condition changed_;
  bool taken_ = false;
  std::atomic<std::uint64_t> news_{0};
};

}  // namespace muster::detail
