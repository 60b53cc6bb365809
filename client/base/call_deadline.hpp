// The time by which the caller's own call has to be over. No request that this thread sends to the daemon during the
// call waits longer, so a stopped daemon can't make a bounded call a long one.
#pragma once

#include <algorithm>
#include <chrono>
#include <utility>

#include "bounded_time.hpp"

namespace muster::detail {

/// How long a running daemon may take to say that a call's time is up.
constexpr auto answer_grace = std::chrono::milliseconds(400);

class CallDeadline {
 public:
  using Time = std::chrono::steady_clock::time_point;

  /// The deadline of a call that begins now and has a timeout. A call inside another one can only end earlier.
  explicit CallDeadline(std::chrono::nanoseconds timeout)
      : outer_(std::exchange(latest(), bound(std::chrono::steady_clock::now() + bounded(timeout) + answer_grace))) {}
  /// No deadline: for a callback that runs in the middle of a call and has deadlines of its own.
  CallDeadline() : outer_(std::exchange(latest(), Time::max())) {}
  ~CallDeadline() { latest() = outer_; }
  CallDeadline(const CallDeadline&) = delete;
  CallDeadline& operator=(const CallDeadline&) = delete;

  /// Returns `until`, or an earlier time if this thread's call has to be over before that.
  [[nodiscard]] static Time bound(Time until) { return std::min(until, latest()); }

 private:
  static Time& latest() {
    static thread_local Time time = Time::max();
    return time;
  }
  Time outer_;
};

}  // namespace muster::detail
