// What is done one thing in a turn of the event loop. Each may take milliseconds, and others have their turns between.
#pragma once

#include <deque>
#include <functional>
#include <utility>

namespace musterd {

class Later {
 public:
  using Function = std::function<void()>;
  /// `post` has a function called in a turn of its own. None may come when this has gone.
  explicit Later(std::function<void(Function)> post) : post_(std::move(post)) {}

  void add(Function function) {
    waiting_.push_back(std::move(function));
    if (!posted_) post_next();
  }
  /// Nothing of it is done any more.
  void clear() { waiting_.clear(); }

 private:
  void post_next() {
    post_([this] { run_one(); });
    posted_ = true;
  }
  void run_one() {
    posted_ = false;
    if (waiting_.empty()) return;
    const auto function = std::move(waiting_.front());
    waiting_.pop_front();
    if (!waiting_.empty()) post_next();
    function();
  }

  std::function<void(Function)> post_;
  std::deque<Function> waiting_;
  bool posted_ = false;
};

}  // namespace musterd
