// Runs system calls that may take long, or for as long as a client likes: sealing memory that a client can lock,
// closing what a client made, giving memory back. Threads are made as they are needed. A call that never ends takes one
// of them from its process, and from others no more than their shares leave.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "base/errand.hpp"

namespace musterd {

class BlockingPool {
 public:
  /// Whose a job is. Jobs of one lane wait for each other, in order; but two of memory, which nobody can make hang, run
  /// side by side.
  struct Lane {
    /// Each has threads of its own.
    enum class Of : std::uint8_t { requests, closing, memory };
    Of of = Of::requests;
    std::uint32_t user = 0;
    std::uint64_t process = 0;  ///< any number that tells those of one user apart
    friend auto operator<=>(const Lane&, const Lane&) = default;
  };
  using Post = std::function<void(Errand)>;

  /// For each of requests, closing and memory. Of what other users leave one has at most half, so that there are
  /// threads for the next.
  static constexpr std::size_t threads_of_each = 12;

  /// `post` is called from the pool's threads with what to run on the control thread. It must not throw.
  explicit BlockingPool(Post post, std::size_t threads_of_each_max = threads_of_each);
  ~BlockingPool();
  BlockingPool(const BlockingPool&) = delete;
  BlockingPool& operator=(const BlockingPool&) = delete;

  /// Runs `work` on a thread of the pool, destroys it there, then posts `then`, also if `work` threw: `then` has to see
  /// that it did nothing. Never waits. If this throws, as there is no memory, it has taken nothing on.
  void run(Lane lane, std::function<void()> work, std::function<void()> then);
  /// The same with what both are about: work(held), then(held). If this throws, `held` is as it was.
  template <class Held, class Work, class Then>
  void run_with(Lane lane, Held& held, Work work, Then then) {
    const auto shared = std::make_shared<Held>();
    std::function<void()> works = [shared, work] { work(*shared); };
    std::function<void()> follows = [shared, then] { then(*shared); };
    *shared = std::move(held);
    try {
      run(lane, std::move(works), std::move(follows));
    } catch (...) {
      held = std::move(*shared);
      throw;
    }
  }
  /// No `then` is posted any more. Waits a moment for what runs, and leaves to its fate what does not end; from now on
  /// run() works at once.
  void stop();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace musterd
