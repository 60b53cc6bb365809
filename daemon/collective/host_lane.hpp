// The host's lane: threads that share large jobs chunk by chunk and take them from the processes in turn, so that no op
// is stuck behind what others have queued. The end of a job is posted back to the control thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/errand.hpp"
#include "collective/fold_watch.hpp"
#include "collective/lane.hpp"
#include "collective/turns.hpp"

namespace musterd {

class HostLane final : public Lane {
 public:
  /// `place` is called on each thread of the lane before it works. `post` is called by any thread with what to run on
  /// the control thread; it must not throw, and what it was given must not be run once the lane has gone. `threads`: at
  /// least 1.
  HostLane(
      unsigned threads, std::function<void(Errand)> post, std::function<void(unsigned thread)> place = [](unsigned) {});
  ~HostLane() override;  ///< waits for the chunks that run; what has not begun is dropped, and nobody is told

  [[nodiscard]] std::optional<Duration> run_at_once(const Job& job) override;
  /// If this throws, as there is no memory, the job is dropped.
  void start(Job job, TimePoint deadline) override;
  void cancel(JobId job) noexcept override;

  /// Whether jobs were started whose end has not been told yet.
  [[nodiscard]] bool busy() const { return untold_ > 0; }
  /// For a moment, the threads take smaller chunks and yield after each: others need these cores for ops that are
  /// quickly over.
  void give_way();

  /// All of a job's work, by the thread that calls.
  static void run_all(const Job& job);
  /// What its kernels run on, for people.
  [[nodiscard]] static std::string instruction_set();

 private:
  struct Cursor;
  struct Chunk;
  class Running;
  using RunningPtr = std::shared_ptr<Running>;
  using JobTurns = Turns<RunningPtr>;

  void work(unsigned thread);
  void post_end(RunningPtr running) noexcept;

  std::function<void(Errand)> post_;
  std::function<void(unsigned thread)> place_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<JobId, RunningPtr> jobs_;  ///< those that have not ended
  JobTurns turns_;                    ///< of these, those with chunks left; and what is left of cancelled ones
  bool stopping_ = false;
  std::atomic<std::chrono::steady_clock::time_point> give_way_until_{};
  std::size_t untold_ = 0;            ///< the control thread's
  FoldWatch watch_;                   ///< the same
  std::vector<std::thread> threads_;  ///< last: they use all of the above
};

}  // namespace musterd
