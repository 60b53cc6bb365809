// What a process's turns on the control thread have cost others, and what the next one may cost.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "base/time.hpp"
#include "session/slice.hpp"

namespace musterd {

/// What the turns of a process or user have cost others lately: a sum, half of which is forgotten every half second.
class RecentCost {
 public:
  /// The cost of a turn for those that wait. Others run into a long turn more often, and then wait longer. So a turn
  /// shorter than a slice counts by the square of its length: a thousand turns of 5 microseconds cost as much as 125
  /// microseconds.
  [[nodiscard]] static std::uint64_t of_turn(Duration took) {
    constexpr auto slice = static_cast<std::uint64_t>(Slice::length.count());
    const auto length = static_cast<std::uint64_t>(std::max<Duration::rep>(took.count(), 0));
    return length < slice ? length * length / slice : length;
  }
  void add(std::uint64_t cost, TimePoint now) {
    forget(now);
    sum_ += cost;
  }
  void forget(TimePoint now) {
    constexpr Duration half_life = std::chrono::milliseconds(500);
    const std::int64_t period = now.time_since_epoch() / half_life;
    // A caller may have read the clock earlier than the previous caller did, so time may step back.
    if (period <= period_) return;
    const std::int64_t halvings = period - period_;
    sum_ = halvings < 64 ? sum_ >> halvings : 0;
    period_ = period;
  }
  /// The sum when something was last added or forgotten.
  [[nodiscard]] std::uint64_t sum() const { return sum_; }

 private:
  std::uint64_t sum_ = 0;
  std::int64_t period_ = 0;
};

/// What a process's next turn may cost, judged by its earlier turns. It rises with a long turn, and falls by a
/// thousandth with each short one. It does not fall with time alone.
class ExpectedCost {
 public:
  void learn(std::uint64_t cost) {
    if (cost > cost_) cost_ += (cost - cost_ + 1) / 2;
    else cost_ -= (cost_ - cost) >> 10;
  }
  [[nodiscard]] std::uint64_t get() const { return cost_; }
  [[nodiscard]] bool is_short() const { return cost_ < short_max; }

 private:
  static constexpr std::uint64_t short_max = 20'000;  // turns of about 60 microseconds
  std::uint64_t cost_ = 100'000;                      // for a process that has had no turn yet
};

}  // namespace musterd
