// The lane over several GPUs. It takes a job apart: each GPU folds its own ranks' arrays, and NCCL reduces what the
// GPUs have folded, or brings it to the GPUs that fold the rest. The job ends when all parts have ended. If one fails,
// the others can't be done either: their communicator is given up. Pure.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "base/time.hpp"
#include "collective/lane.hpp"
#include "gpu/control/communicators.hpp"
#include "gpu/control/gpu.hpp"

namespace musterd::gpu {

struct GpusLaneSettings {
  CommunicatorSettings communicators;
  /// For a job that was cancelled. It may be waiting for others that are only slow, and all jobs of its communicator
  /// fail when that is given up.
  Duration cancel_timeout = std::chrono::seconds(1);
  /// How much one event does for jobs that have waited for the same, in units of about a microsecond. The next ticks do
  /// the rest.
  std::size_t effort_max = 256;
};

class GpusLane final : public Lane {
 public:
  /// The GPUs must outlive this.
  GpusLane(GpusLaneSettings settings, GpuSet gpus);

  [[nodiscard]] bool has(std::span<const muster::Device> devices) const;

  // Lane
  [[nodiscard]] std::optional<Duration> run_at_once(const Job& job) override;
  void start(Job job, TimePoint deadline) override;
  void cancel(JobId job) noexcept override;

  void tick(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;
  [[nodiscard]] std::size_t jobs() const { return jobs_.size(); }
  [[nodiscard]] const Communicators& communicators() const { return communicators_; }

 private:
  struct Running {
    Job job;
    Team team;
    CommunicatorId communicator = 0;
    std::size_t parts = 0;    ///< that have not ended
    bool is_started = false;  ///< else it waits for its communicator
    bool is_cancelled = false;
    bool parts_cancelled = false;
    std::optional<TimePoint> give_up_at;  ///< of one that was cancelled; set by the next tick
    Why failed;
    bool is_told = false;  ///< of its end; it is not quiet yet
  };
  [[nodiscard]] Gpu* find(muster::Device device) const;
  void communicator_ready() noexcept;
  void communicator_broken(CommunicatorId id, const Why& why) noexcept;
  void start_some() noexcept;
  void start_parts(Running& running) noexcept;
  static void cancel_parts(Running& running) noexcept;
  void part_ended(JobId id, const muster::Result<void>& outcome) noexcept;
  void fail(Running& running, const Why& why) noexcept;
  /// Returns how much work that was.
  std::size_t settle(JobId id);
  void settle_some();
  void give_up_late(TimePoint now);

  GpusLaneSettings settings_;
  GpuSet gpus_;
  Communicators communicators_;
  Why no_memory_;
  Why was_cancelled_;
  std::map<JobId, Running> jobs_;
  bool has_unstarted_ = false;  ///< jobs whose communicators are ready
  bool has_cancelled_ = false;  ///< jobs that were cancelled and may not have ended
  bool has_unsettled_ = false;  ///< jobs of which the end, or that they are quiet, has to be told
};

}  // namespace musterd::gpu
