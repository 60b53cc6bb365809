// Runs folds and copies on lanes: worker threads that share large jobs chunk by chunk and fairly,
// so that a small op isn't stuck behind a large one. Completion is posted back to the control thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "collective/plan.hpp"

namespace musterd {

/// A plan's work with its outputs' addresses filled in.
struct Job {
  struct FoldTask {
    Fold fold;
    std::byte* output = nullptr;  ///< first byte of the fold's result
  };
  struct CopyTask {
    const std::byte* source = nullptr;
    std::byte* output = nullptr;
    std::uint64_t bytes = 0;
  };
  std::vector<FoldTask> folds;
  std::vector<CopyTask> copies;
  std::shared_ptr<const void> lease;  ///< keeps inputs and outputs alive while it runs
  std::function<void()> done;         ///< handed to `post` once everything has run
};

class Engine {
 public:
  /// `post` is called from lanes with a function to run on the control thread; it must be thread-safe.
  Engine(unsigned lanes, std::function<void(std::function<void()>)> post);
  ~Engine();  ///< waits for the chunks that run; what has not begun is dropped

  void submit(Job job);
  /// Runs it here and now; for small jobs. Does not call `done`.
  static void run_inline(const Job& job);

  [[nodiscard]] unsigned lanes() const;
};

}  // namespace musterd
