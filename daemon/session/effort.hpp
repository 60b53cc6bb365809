// Finds the clients that make the kernel work long for the control thread. A client can have others watch its end of a
// socket, an eventfd or a bell by a million epoll sets, or have thousands of threads sleep on one futex; each call that
// tells it something then walks all of them.
#pragma once

#include <chrono>
#include <utility>

#include "session/slice.hpp"

namespace musterd {

/// Of one client.
struct KernelEffort {
  bool too_much = false;   ///< for good
  bool suspected = false;  ///< a call, or others beside it, took long, perhaps as another process had the core
};

class EffortMeter {
 public:
  static constexpr Duration max = std::chrono::milliseconds(2);  ///< of one call

  explicit EffortMeter(RoundsClock clock) : clock_(std::move(clock)) {}

  /// For calls that are so rare that two more system calls don't matter.
  template <class Call>
  auto measure(KernelEffort& effort, Call call) {
    const Duration before = clock_.on_core();
    auto result = call();
    effort.too_much |= clock_.on_core() - before > max;
    return result;
  }
  /// For frequent calls: those that seem long have the next one measured.
  template <class Call>
  void watch(KernelEffort& effort, Call call) {
    const TimePoint before = clock_.now();
    in_batch(effort, call);
    effort.suspected = seems_long(before);
  }
  /// For calls of which many are made at once, so that asking the clock for each would cost too much. When all of them
  /// together seem long, their caller suspects each.
  template <class Call>
  void in_batch(KernelEffort& effort, Call call) {
    if (std::exchange(effort.suspected, false)) measure(effort, [&] { return call(), true; });
    else call();
  }
  [[nodiscard]] TimePoint begin_batch() const { return clock_.now(); }
  [[nodiscard]] bool seems_long(TimePoint began) const { return clock_.now() - began > max; }

 private:
  RoundsClock clock_;
};

}  // namespace musterd
