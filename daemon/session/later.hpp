// Functions that run one in each turn of the loop. Each may take milliseconds, and others have their turns in between.
#pragma once

#include <deque>
#include <functional>
#include <utility>

namespace musterd {

class Later {
 public:
  using Function = std::function<void()>;

  /// If this throws, as there is no memory, the function stays where it was.
  void add(Function&& function) { waiting_.push_back(std::move(function)); }
  [[nodiscard]] bool empty() const { return waiting_.empty(); }
  /// Runs the first function. True if there was one.
  bool run_one() {
    if (waiting_.empty()) return false;
    const auto function = std::move(waiting_.front());
    waiting_.pop_front();
    function();
    return true;
  }
  /// Drops all functions without running them.
  void clear() { waiting_.clear(); }

 private:
  std::deque<Function> waiting_;
};

}  // namespace musterd
