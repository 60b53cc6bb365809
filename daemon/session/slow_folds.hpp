// The processes whose arrays the control thread does not read for a while. A process can make the kernel lock the pages
// of its sealed arrays, for example by collapsing them into huge pages. A thread that reads them then waits. A lane may
// wait; the control thread may not.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/time.hpp"
#include "collective/contribution.hpp"
#include "collective/turns.hpp"
#include "session/works.hpp"

namespace musterd {

class SlowFolds {
 public:
  static constexpr Duration pause = std::chrono::seconds(10);
  static constexpr std::size_t marks_max = 16;
  static constexpr std::ptrdiff_t of_user_max = 3;  ///< with more marked processes, the whole user counts as marked

  SlowFolds() { marks_.reserve(marks_max); }

  /// Marks a process, as a fold with one of its arrays took long.
  void mark(const Process& process, TimePoint now) {
    forget(now);
    std::erase_if(marks_, [&](const Mark& mark) { return mark.process == process; });
    if (marks_.size() == marks_max) marks_.erase(marks_.begin());
    marks_.push_back({process, now + pause});
  }
  /// Whether no process was marked lately. That is the usual case, and this check is quick.
  [[nodiscard]] bool empty() const { return marks_.empty(); }
  [[nodiscard]] bool holds_off(const Process& process) const {
    const auto same_user = [&](const Mark& mark) { return mark.process.user == process.user; };
    return std::any_of(marks_.begin(), marks_.end(), [&](const Mark& mark) { return mark.process == process; }) ||
           std::count_if(marks_.begin(), marks_.end(), same_user) > of_user_max;
  }
  /// Marks all processes whose arrays the op reads, as any of them may be the reason.
  void mark(const Op& op, const Works& works, TimePoint now);
  /// Whether the control thread does not read the arrays of this op now.
  [[nodiscard]] bool holds_off(const Op& op, const Works& works, TimePoint now);
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
