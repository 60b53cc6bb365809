// What one thread at a time does for all, such as reading the ring: it has the turn, the others wait for its news.
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
  /// Gives the turn that this thread has taken when it goes.
  class Having {
   public:
    explicit Having(Turn& turn) : turn_(turn) {}
    Having(const Having&) = delete;
    Having& operator=(const Having&) = delete;
    ~Having() { turn_.give(); }

   private:
    Turn& turn_;
  };

  /// `mutex`: of the connection's state.
  explicit Turn(OrderedMutex& mutex) : mutex_(mutex) {}

  /// To be asked before one looks at what news may have changed: then none is missed.
  [[nodiscard]] std::uint64_t seen() const { return news_.load(std::memory_order_acquire); }
  [[nodiscard]] bool try_take() {
    const std::lock_guard lock(mutex_);
    return take();
  }
  /// True: this thread has the turn, and must be Having it. False: there is news since `seen`, or it is that late, or
  /// it may be.
  [[nodiscard]] bool take_or_wait(std::uint64_t seen, std::chrono::steady_clock::time_point until) {
    std::unique_lock lock(mutex_);
    if (take()) return true;
    if (news_.load(std::memory_order_relaxed) == seen) changed_.wait_until(lock, until);
    return false;
  }
  /// Something has changed that others may wait for.
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
