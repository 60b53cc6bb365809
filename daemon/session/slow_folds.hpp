// Whose arrays the control thread does not read for a while. A process can make the kernel lock the pages of its sealed
// arrays, by collapsing them into huge pages for example, and a thread that reads them then waits. A lane may wait; the
// control thread may not.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "base/cpu_time.hpp"
#include "base/time.hpp"
#include "collective/turns.hpp"

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

class SlowFolds {
 public:
  static constexpr Duration pause = std::chrono::seconds(10);
  static constexpr std::size_t marks_max = 16;
  static constexpr std::ptrdiff_t of_user_max = 3;  ///< processes; with more the whole user is meant

  SlowFolds() { marks_.reserve(marks_max); }

  /// A fold with an array of this process took long.
  void mark(const Process& process, TimePoint now) {
    forget(now);
    std::erase_if(marks_, [&](const Mark& mark) { return mark.process == process; });
    if (marks_.size() == marks_max) marks_.erase(marks_.begin());
    marks_.push_back({process, now + pause});
  }
  /// Whether nobody was marked lately. The usual answer, and quick.
  [[nodiscard]] bool empty() const { return marks_.empty(); }
  [[nodiscard]] bool holds_off(const Process& process) const {
    const auto same_user = [&](const Mark& mark) { return mark.process.user == process.user; };
    return std::any_of(marks_.begin(), marks_.end(), [&](const Mark& mark) { return mark.process == process; }) ||
           std::count_if(marks_.begin(), marks_.end(), same_user) > of_user_max;
  }
  void forget(TimePoint now) {
    std::erase_if(marks_, [&](const Mark& mark) { return mark.until <= now; });
  }

 private:
  struct Mark {
    Process process;
    TimePoint until;
  };
  std::vector<Mark> marks_;  ///< the earliest first
};

}  // namespace musterd
