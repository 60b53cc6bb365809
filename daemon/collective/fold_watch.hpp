// Measures how long a fold held up the control thread, as far as the fold caused that.
#pragma once

#include <chrono>
#include <functional>
#include <utility>

#include "base/cpu_time.hpp"
#include "base/time.hpp"

namespace musterd {

/// Time in which another process had the core does not count. The kernel says how long a thread has had a core, and how
/// often it gave the core up by itself, to wait. To ask takes a system call, so this asks only for a while after a fold
/// that took long.
class FoldWatch {
 public:
  static constexpr Duration long_min = std::chrono::milliseconds(2);  ///< a fold that takes longer counts as long
  static constexpr Duration doubts_last = std::chrono::seconds(10);

  struct Clocks {
    std::function<TimePoint()> now;
    std::function<ThreadUsage()> usage;
  };
  explicit FoldWatch(Clocks clocks) : clocks_(std::move(clocks)) {}

  /// Runs the fold, and returns how long it held up the thread. Zero if it was short, or if the reason is unknown.
  template <class Fold>
  [[nodiscard]] Duration held_up(Fold fold) {
    const TimePoint began = clocks_.now();
    const bool doubts = began < doubts_until_;
    const ThreadUsage before = doubts ? clocks_.usage() : ThreadUsage{};
    fold();
    const TimePoint ended = clocks_.now();
    if (ended - began <= long_min) return {};
    doubts_until_ = ended + doubts_last;
    if (!doubts) return {};
    const ThreadUsage after = clocks_.usage();
    return after.waits != before.waits || after.on_core - before.on_core > long_min ? ended - began : Duration{};
  }

 private:
  Clocks clocks_;
  TimePoint doubts_until_;
};

}  // namespace musterd
