// A slice of the control thread's time, and the clock that measures it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "base/time.hpp"

namespace musterd {

/// The clock of the rounds, and how long the thread has had a core. Tests have their own.
struct RoundsClock {
  std::function<TimePoint()> now;
  std::function<Duration()> on_core;  ///< takes a system call
};

/// What is left of a process's turn. A single piece of work may take longer than that.
class Slice {
 public:
  static constexpr Duration length = std::chrono::microseconds(200);

  /// `clock` has to outlive the slice.
  Slice(const RoundsClock& clock, TimePoint begin) : clock_(clock), until_(begin + length) {}

  enum class Cost : std::uint8_t {
    quick,  ///< work that gives something up or only notes it; the clock is not read for each
    any,
  };
  /// Notes that some work was done.
  void spend(Cost cost) { since_clock_ = cost == Cost::quick ? since_clock_ + 1 : quick_max; }
  /// Whether there is time for more. The usual turn does one thing and never calls this.
  [[nodiscard]] bool lasts() {
    if (since_clock_ < quick_max) return true;
    since_clock_ = 0;
    over_ = clock_.now() >= until_;
    return !over_;
  }
  [[nodiscard]] bool over() const { return over_; }

 private:
  static constexpr int quick_max = 16;  // in a row
  const RoundsClock& clock_;
  int since_clock_ = 0;
  TimePoint until_;
  bool over_ = false;
};

}  // namespace musterd
