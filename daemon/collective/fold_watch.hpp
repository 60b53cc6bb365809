// How long a fold held the control thread up, as far as that is the fold's doing.
#pragma once

#include <chrono>
#include <functional>
#include <utility>

#include "base/cpu_time.hpp"
#include "base/time.hpp"

namespace musterd {

/// How long the control thread was held up by a fold. That another process had the core meanwhile does not count: the
/// kernel says for how long a thread has had one, and how often it has given it up by itself, to wait. Asking takes a
/// system call, so it is asked only for a while after a fold that took long.
class FoldWatch {
 public:
  static constexpr Duration long_min = std::chrono::milliseconds(2);  ///< of a fold that is over at once otherwise
  static constexpr Duration doubts_last = std::chrono::seconds(10);

  struct Clocks {
    std::function<TimePoint()> now;
    std::function<ThreadUsage()> usage;
  };
  explicit FoldWatch(Clocks clocks) : clocks_(std::move(clocks)) {}

  /// Zero for a fold that was short, or of which it isn't known why it took long.
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
