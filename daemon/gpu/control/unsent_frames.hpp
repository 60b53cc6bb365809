// Frames that wait until a worker reads, in order, and how much of them is whose.
#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <optional>
#include <utility>

#include "gpu/control/worker_port.hpp"

namespace musterd::gpu {

class UnsentFrames {
 public:
  struct One {
    WorkerFrame frame;
    SharedFd fd;
    std::optional<UserId> user;
    [[nodiscard]] std::size_t bytes() const { return sizeof(One) + frame.capacity(); }
  };

  /// If this throws, as there is no memory, nothing was added.
  void push(One one) {
    std::size_t* const of_user = one.user ? &of_user_[*one.user] : nullptr;
    const std::size_t more = one.bytes();
    all_.push_back(std::move(one));
    bytes_ += more;
    if (of_user) *of_user += more;
  }
  [[nodiscard]] bool empty() const { return all_.empty(); }
  [[nodiscard]] const One& front() const { return all_.front(); }
  void pop() noexcept {
    const One& first = all_.front();
    const std::size_t less = first.bytes();
    bytes_ -= less;
    if (first.user)
      if (const auto found = of_user_.find(*first.user); (found->second -= less) == 0) of_user_.erase(found);
    all_.pop_front();
  }
  void clear() noexcept {
    all_.clear();
    of_user_.clear();
    bytes_ = 0;
  }

  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] std::size_t bytes_of(UserId user) const {
    const auto found = of_user_.find(user);
    return found == of_user_.end() ? 0 : found->second;
  }

 private:
  std::deque<One> all_;
  std::map<UserId, std::size_t> of_user_;
  std::size_t bytes_ = 0;
};

}  // namespace musterd::gpu
