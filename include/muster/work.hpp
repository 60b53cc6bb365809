// A Work is an op that was started. It ends with what this rank gets, or with the error that every rank gets.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <muster/ref.hpp>
#include <muster/result.hpp>

namespace muster {

namespace detail {
struct WorkState;  // client/core/protocol/work_state.hpp
}

/// What a rank gets of an op: no ref (barrier, send, reduce off root), one, or world_size of them.
struct Outcome {
  std::vector<Ref> refs;
  int contributors = 0;  ///< ranks whose inputs are in it
};

/// Read-only result of one array. `span` stays valid while this object lives.
template <class T>
struct TypedResult {
  std::span<const T> span;
  Shape shape;
  ArrayView view;  ///< keeps the object alive
};

class Work {
 public:
  Work() = default;
  explicit Work(std::shared_ptr<detail::WorkState> state) : state_(std::move(state)) {}

  [[nodiscard]] bool valid() const { return state_ != nullptr; }
  /// True when the op is over, done or failed. Never blocks.
  [[nodiscard]] bool done() const;
  /// Waits for the outcome. The timeout limits this wait only: when it passes, this is Timeout, which names the missing
  /// ranks, and the op goes on. Without a timeout this waits until the op's own deadline.
  [[nodiscard]] Result<Outcome> wait(Timeout timeout = {}) const;
  /// The result as a Ref; Invalid if this rank gets none or several.
  [[nodiscard]] Result<Ref> ref(Timeout timeout = {}) const;
  /// The result as one array of T; Invalid if its dtype is another one.
  template <class T>
  [[nodiscard]] Result<TypedResult<T>> result(Timeout timeout = {}) const;
  /// A descriptor that becomes readable when the op may be over; call done() then. The client owns it, and all works
  /// share it.
  [[nodiscard]] Result<int> fd() const;
  /// Calls `callback` once when the op is over, from a thread that waits or polls. Calls it at once if the op is over
  /// already.
  void on_done(std::function<void()> callback) const;

  [[nodiscard]] const std::shared_ptr<detail::WorkState>& state() const { return state_; }

 private:
  std::shared_ptr<detail::WorkState> state_;
};

}  // namespace muster
