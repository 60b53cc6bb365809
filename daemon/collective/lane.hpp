// The seam between ops and what does their work. The host's lane (host_lane.hpp) has threads; a GPU's has a
// process. A lane may fail, hang, or be late. The caller that starts a job deals with that: see OpRuns.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include <muster/ipc/small_vector.hpp>
#include <muster/result.hpp>

#include "base/time.hpp"
#include "collective/plan.hpp"
#include "collective/turns.hpp"
#include "memory/place.hpp"

namespace musterd {

using JobId = std::uint64_t;

/// How a job's work ended.
struct JobEnd {
  muster::Result<void> outcome;
  /// True if nothing of the job can touch memory any more. It is true whenever the work was done. If the work failed or
  /// was cancelled, the job may become quiet later; Job::quiet is called then.
  bool quiet = true;
};

/// A plan's work, and where its outputs are. Inputs and outputs must stay where they are until the job is quiet.
struct Job {
  JobId id = 0;     ///< no other job of the lane has this id until this one is quiet
  Process process;  ///< whose turns it takes
  Work work;
  Devices devices;                             ///< those of the plan
  muster::ipc::SmallVector<Place, 1> outputs;  ///< the first byte of each; nowhere for outputs without bytes
  /// Called once, on the control thread and never within start() or cancel().
  std::function<void(JobEnd end)> ended;
  /// Called in the same way after `ended`, and only if that said that the job was not quiet yet.
  std::function<void()> quiet;
};

/// All functions are called on the control thread, and none of them waits.
class Lane {
 public:
  Lane() = default;
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  virtual ~Lane() = default;

  /// Runs a small job at once, without calling `ended` or `quiet`. Returns how long that held up the thread. Nothing if
  /// this lane can't do that, or is faster by start().
  [[nodiscard]] virtual std::optional<Duration> run_at_once(const Job& job) = 0;
  /// Starts a job. After `deadline` nobody needs the work any more. A lane may ignore it, as late jobs are cancelled.
  /// If this throws, as there is no memory, the job is dropped.
  virtual void start(Job job, TimePoint deadline) = 0;
  /// Nobody needs the job's work any more, so the lane may leave out what has not begun. The job ends and becomes quiet
  /// like any other. It may have ended already.
  virtual void cancel(JobId job) noexcept = 0;
};

}  // namespace musterd
