// The host's lane: threads that share large jobs chunk by chunk. They take chunks from the processes in turn, so that
// no op is stuck behind what others have queued. The lane posts the end of a job to the control thread.
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
  /// `threads` must be at least 1. Each thread of the lane calls `place` before it works. Any thread may call `post`
  /// with what to run on the control thread. `post` must not throw, and what it was given must not run after the lane's
  /// end.
  HostLane(
      unsigned threads, std::function<void(Errand)> post, std::function<void(unsigned thread)> place = [](unsigned) {});
  ~HostLane() override;  ///< waits for the chunks that run, and drops the others without telling anybody

  [[nodiscard]] std::optional<Duration> run_at_once(const Job& job) override;
  /// If this throws, as there is no memory, the job is dropped.
  void start(Job job, TimePoint deadline) override;
  void cancel(JobId job) noexcept override;

  /// Whether there are jobs whose `ended` has not been called yet.
  [[nodiscard]] bool busy() const { return untold_ > 0; }
  /// For a moment the threads take smaller chunks and yield after each, as others need these cores for short ops.
  void give_way();

  /// Does all of a job's work on the calling thread.
  static void run_all(const Job& job);
  /// The instruction set that the kernels use, for status output.
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
  std::map<JobId, RunningPtr> jobs_;  ///< the jobs that have not ended
  JobTurns turns_;                    ///< the jobs with chunks left
  bool stopping_ = false;
  std::atomic<std::chrono::steady_clock::time_point> give_way_until_{};
  std::size_t untold_ = 0;            ///< used by the control thread only
  FoldWatch watch_;                   ///< used by the control thread only
  std::vector<std::thread> threads_;  ///< last, as they use all of the above
};

}  // namespace musterd
