// The time at which the caller's own call has to be over: whatever this thread asks the daemon on the way waits no
// longer, so that a daemon that is stopped can't make a bounded call a long one.
#pragma once

#include <algorithm>
#include <chrono>
#include <utility>

#include "bounded_time.hpp"

namespace muster::detail {

/// What a daemon that runs may take to say that a call's time is up.
constexpr auto answer_grace = std::chrono::milliseconds(400);

class CallDeadline {
 public:
  using Time = std::chrono::steady_clock::time_point;

  /// Of a call that begins now and has a timeout. One inside another can only be earlier.
  explicit CallDeadline(std::chrono::nanoseconds timeout)
      : outer_(std::exchange(latest(), bound(std::chrono::steady_clock::now() + bounded(timeout) + answer_grace))) {}
  /// None, for what is called back in the middle of a call and has deadlines of its own.
  CallDeadline() : outer_(std::exchange(latest(), Time::max())) {}
  ~CallDeadline() { latest() = outer_; }
  CallDeadline(const CallDeadline&) = delete;
  CallDeadline& operator=(const CallDeadline&) = delete;

  /// `until`, or earlier if this thread's call has to be over before.
  [[nodiscard]] static Time bound(Time until) { return std::min(until, latest()); }

 private:
  static Time& latest() {
    static thread_local Time time = Time::max();
    return time;
  }
  Time outer_;
};

}  // namespace muster::detail
