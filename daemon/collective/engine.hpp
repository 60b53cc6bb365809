// Runs folds and copies on lanes: worker threads that share large jobs chunk by chunk and take them from the processes
// in turn, so that no op is stuck behind what others have queued. Completion is posted back to the control thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/errand.hpp"
#include "collective/plan.hpp"
#include "collective/turns.hpp"

namespace musterd {

/// A plan's work, and where its outputs are.
struct Job {
  Process process;  ///< whose turns it takes
  Work work;
  muster::ipc::SmallVector<std::byte*, 1> outputs;  ///< first byte of each; null for those without bytes
  std::shared_ptr<const void> lease;  ///< keeps inputs and outputs alive while it runs; dropped after `done`
  std::function<void()> done;         ///< handed to `post` once everything has run
};

class Engine {
 public:
  /// `place` is called on each lane's own thread before it works. `post` is called from lanes with what to run on the
  /// control thread; it must be thread-safe and must not throw. The job, and so its lease, is destroyed with that.
  /// `lanes`: at least 1.
  Engine(
      unsigned lanes, std::function<void(Errand)> post, std::function<void(unsigned lane)> place = [](unsigned) {});
  ~Engine();  ///< waits for the chunks that run; what has not begun is dropped
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// If this throws, as there is no memory, the job is dropped.
  void submit(Job job);
  /// For a moment, lanes take smaller chunks and yield after each: others need these cores for ops that are quickly
  /// over.
  void give_way();
  /// Runs it here and now; for small jobs. Does not call `done`.
  static void run_inline(const Job& job);

  /// What its kernels run on, for people.
  [[nodiscard]] static std::string instruction_set();

 private:
  struct Cursor;
  struct Chunk;
  class Running;
  using JobTurns = Turns<std::shared_ptr<Running>>;

  void work(unsigned lane);

  std::function<void(Errand)> post_;
  std::function<void(unsigned lane)> place_;
  std::mutex mutex_;
  std::condition_variable wake_;
  JobTurns turns_;  ///< jobs with chunks left
  bool stopping_ = false;
  std::atomic<std::chrono::steady_clock::time_point> give_way_until_{};
  std::vector<std::thread> lanes_;  ///< last: they use all of the above
};

}  // namespace musterd
