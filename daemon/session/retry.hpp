// When something is tried again for which there was no memory, or no descriptor: in a moment, as others have to give
// some back first.
#pragma once

#include <algorithm>

#include "base/time.hpp"

namespace musterd {

class Retry {
 public:
  /// `pause`: between two attempts.
  explicit Retry(Duration pause) : pause_(pause) {}

  void failed(TimePoint now) { at_ = now + pause_; }
  /// It is tried as soon as there is a reason to.
  void succeeded() { at_ = TimePoint::min(); }
  /// What was missing is there: it need not wait any longer.
  void hurry(TimePoint now) { at_ = std::min(at_, now); }
  [[nodiscard]] bool has_failed() const { return at_ != TimePoint::min(); }
  [[nodiscard]] bool may(TimePoint now) const { return now >= at_; }
  /// The next attempt; of what has failed.
  [[nodiscard]] TimePoint at() const { return at_; }

 private:
  Duration pause_;
  TimePoint at_ = TimePoint::min();
};

}  // namespace musterd
