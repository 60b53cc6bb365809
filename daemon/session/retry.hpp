// Says when to try again something that found no memory or no descriptor. That is after a pause, as others have to give
// some back first.
#pragma once

#include <algorithm>

#include "base/time.hpp"

namespace musterd {

class Retry {
 public:
  /// `pause` is the time between two attempts.
  explicit Retry(Duration pause) : pause_(pause) {}

  void failed(TimePoint now) { at_ = now + pause_; }
  /// From now on it is tried whenever there is a reason to.
  void succeeded() { at_ = TimePoint::min(); }
  /// What was missing is there, so the next attempt need not wait.
  void hurry(TimePoint now) { at_ = std::min(at_, now); }
  [[nodiscard]] bool has_failed() const { return at_ != TimePoint::min(); }
  [[nodiscard]] bool may(TimePoint now) const { return now >= at_; }
  /// When to try again, if the last attempt failed.
  [[nodiscard]] TimePoint at() const { return at_; }

 private:
  Duration pause_;
  TimePoint at_ = TimePoint::min();
};

}  // namespace musterd
