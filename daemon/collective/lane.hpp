// The seam between ops and what does their work. The host's lane (host_lane.hpp) has threads; a GPU's will have a
// process. A lane may fail, hang, or be late, and whoever starts a job deals with that: see OpRuns.
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
  /// Nothing of the job can touch memory any more. Always so where the work was done; where it failed or was cancelled
  /// it may be so only later, and then Job::quiet is called.
  bool quiet = true;
};

/// A plan's work, and where its outputs are. Inputs and outputs must stay where they are until the job is quiet.
struct Job {
  JobId id = 0;     ///< no other job of the lane has it until this one is quiet
  Process process;  ///< whose turns it takes
  Work work;
  muster::ipc::SmallVector<Place, 1> outputs;  ///< first byte of each; nowhere for those without bytes
  /// Called once, on the control thread and never within start() or cancel().
  std::function<void(JobEnd end)> ended;
  /// The same, after `ended`, and only if that said that the job was not quiet yet.
  std::function<void()> quiet;
};

/// All of it is called on the control thread, and none of it waits.
class Lane {
 public:
  Lane() = default;
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  virtual ~Lane() = default;

  /// Runs a small job here and now, without calling what it has to be told. How long that held the thread up; nothing
  /// where this lane can't, or is quicker by start().
  [[nodiscard]] virtual std::optional<Duration> run_at_once(const Job& job) = 0;
  /// `deadline`: after it nobody wants the work any more. A lane need not look at it: what is late is cancelled.
  /// If this throws, as there is no memory, the job is dropped.
  virtual void start(Job job, TimePoint deadline) = 0;
  /// Nobody wants the job's work any more: what has not begun need not be done. The job ends and becomes quiet as any
  /// other does; it may have ended already.
  virtual void cancel(JobId job) noexcept = 0;
};

}  // namespace musterd
