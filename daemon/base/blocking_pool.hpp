// Runs system calls that may take long, or for as long as a client likes: sealing memory that a client can lock,
// closing what a client made, giving memory back. Threads are made as they are needed, and a call that never ends costs
// its client one of them and nobody else anything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace musterd {

class BlockingPool {
 public:
  /// What may run side by side: jobs of one lane wait for each other.
  struct Lane {
    enum class Of : std::uint8_t {
      requests,  ///< of one client: one at a time, in order
      closing,   ///< of one user
      memory,    ///< of one user
    };
    Of of = Of::requests;
    std::uint32_t id = 0;  ///< of the client or user
    friend auto operator<=>(const Lane&, const Lane&) = default;
  };
  using Post = std::function<void(std::function<void()>)>;

  /// `post` is called from the pool's threads with a function to run on the control thread.
  explicit BlockingPool(Post post, std::size_t threads_max = 512);
  ~BlockingPool();
  BlockingPool(const BlockingPool&) = delete;
  BlockingPool& operator=(const BlockingPool&) = delete;

  /// Runs `work` on a thread of the pool, destroys it there, then posts `then`, also if `work` threw: `then` has to see
  /// that it did nothing. Never waits.
  void run(Lane lane, std::function<void()> work, std::function<void()> then);
  /// No `then` is posted any more. Waits a moment for what runs, and leaves to its fate what does not end; from now on
  /// run() works at once.
  void stop();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace musterd
