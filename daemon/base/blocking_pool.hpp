// Runs system calls that may take long, or for as long as a client likes: sealing memory that a client can lock,
// closing what a client made, giving memory back. Threads are made as they are needed. A call that never ends costs its
// process one thread; other users keep their share of the threads.
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
  /// Says where a job comes from. Jobs of one source run one after the other, in order. Only memory has two jobs side
  /// by side, as nobody can make those hang.
  struct Source {
    /// Each kind has threads of its own.
    enum class Of : std::uint8_t { requests, closing, memory };
    Of of = Of::requests;
    std::uint32_t user = 0;
    std::uint64_t process = 0;  ///< any number that tells the processes of one user apart
    friend auto operator<=>(const Source&, const Source&) = default;
  };
  using Post = std::function<void(Errand)>;

  /// How many threads requests, closing and memory have each. A user gets at most half of what other users leave, so
  /// that there are threads for the next one.
  static constexpr std::size_t threads_of_each = 12;

  /// `post` is called from the pool's threads with what to run on the control thread. It must not throw.
  explicit BlockingPool(Post post, std::size_t threads_of_each_max = threads_of_each);
  ~BlockingPool();
  BlockingPool(const BlockingPool&) = delete;
  BlockingPool& operator=(const BlockingPool&) = delete;

  /// Runs `work` on a thread of the pool, destroys it there, then posts `then`. It posts `then` even if `work` threw;
  /// `then` has to see that nothing was done. Never waits. If this throws, for lack of memory, no work was taken on.
  void run(Source source, std::function<void()> work, std::function<void()> then);
  /// The same for functions that share `held`: calls work(held) and then(held). If this throws, `held` is as it was.
  template <class Held, class Work, class Then>
  void run_with(Source source, Held& held, Work work, Then then) {
    const auto shared = std::make_shared<Held>();
    std::function<void()> works = [shared, work] { work(*shared); };
    std::function<void()> follows = [shared, then] { then(*shared); };
    *shared = std::move(held);
    try {
      run(source, std::move(works), std::move(follows));
    } catch (...) {
      held = std::move(*shared);
      throw;
    }
  }
  /// From now on no `then` is posted, and run() does its work at once. Waits a moment for jobs that run, and abandons
  /// those that do not end.
  void stop();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace musterd
