// A slice of the control thread's time, and the clock that measures it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "base/time.hpp"

namespace musterd {

/// The rounds' time, and how much of it the thread has had a core. A test has its own.
struct RoundsClock {
  std::function<TimePoint()> now;
  std::function<Duration()> on_core;  ///< takes a system call
};

/// What a process has left of its turn. One thing that is done may take longer than there is.
class Slice {
 public:
  static constexpr Duration length = std::chrono::microseconds(200);

  /// `clock` has to outlive it.
  Slice(const RoundsClock& clock, TimePoint begin) : clock_(clock), until_(begin + length) {}

  enum class Cost : std::uint8_t {
    quick,  ///< gives something up, or only takes note: the clock is not asked for each of these
    any,
  };
  /// Something was done.
  void spend(Cost cost) { since_clock_ = cost == Cost::quick ? since_clock_ + 1 : quick_max; }
  /// Whether there is time for more. The usual turn does one thing and never asks.
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
