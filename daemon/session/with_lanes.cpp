// How an op runs: at once on the control thread, or on a lane, which may fail, hang or be late.
#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>

#include "base/assert.hpp"
#include "collective/fold_watch.hpp"
#include "collective/op_effort.hpp"
#include "session/op_runs.hpp"
#include "session/turn.hpp"

namespace musterd {

using muster::Code;
using muster::Error;

namespace {

/// What waits for workers while they are busy: each gets its part of the plan's work, and a list of all outputs.
std::uint64_t bytes_for_workers(const RunningOp& running) {
  const auto& devices = running.plan.devices;
  if (devices.front().is_host()) return 0;
  return running.plan_bytes + devices.size() * running.plan.outputs.size() * sizeof(Place);
}

}  // namespace

void OpRuns::launch(std::uint64_t key) {
  RunningOp& running = running_.at(key);
  if (const auto lost = lost_input(running)) return fail_running(key, *lost);
  if (std::exchange(running.put_aside, false)) {
    auto plan = plan_of(running);
    if (!plan) return fail_running(key, plan.error());
    running.plan = std::move(*plan);
  }
  Job job;
  job.work = std::move(running.plan.work);
  job.devices = running.plan.devices;
  for (const auto& region : running.regions) job.outputs.push_back(region.place());
  const std::uint64_t bytes = running.plan.work_bytes;
  parts_.counts.bytes_reduced += bytes;
  if (bytes == 0) return finish(key);
  Lane& lane = *parts_.outside.lane(running.plan.devices);
  if (bytes <= at_once_bytes_max && !slow_folds_.holds_off(*running.op, parts_.works, parts_.now)) {
    if (const auto held_up = lane.run_at_once(job)) {
      if (*held_up > FoldWatch::long_min) slow_folds_.mark(*running.op, parts_.works, parts_.now);
      return finish(key);
    }
  }
  // Its last client may have gone while it waited for nothing that is looked at when clients go.
  std::size_t left = effort_of_turn;
  if (!long_ops_.is_wanted(running, left)) return drop(running);
  if (auto charged = memory_.charge(running, bytes_for_workers(running)); !charged)
    return fail_running(key, charged.error());
  watch(running);
  job.id = key;
  job.process = process_of(*running.op);
  job.ended = [this, key](const JobEnd& end) { parts_.event([&] { lane_ended(key, end); }); };
  job.quiet = [this, key] { parts_.event([&] { lane_is_quiet(key); }); };
  lane.start(std::move(job), running.deadline);
  running.with_lane = true;
  long_ops_.add_with_lane(running);
}

void OpRuns::watch(RunningOp& running) {
  if (running.DueHook::is_linked()) return;
  running.deadline = deadline_of(*running.op);
  due_.insert(running);
}

/// The process whose turns an op takes on a lane. All ranks take part in a group's op, and the process of the lowest
/// one stands for them. So a group's ops stay in order, and many ranks get no more of the lane than a single process.
const Process& OpRuns::process_of(const Op& op) const {
  return parts_.works.at(op.contributions.front().ticket).process;
}

void OpRuns::lane_ended(std::uint64_t key, const JobEnd& end) {
  MUSTER_ASSERT(end.quiet || !end.outcome, "what was done is quiet");
  RunningOp& running = running_.at(key);
  running.with_lane = !end.quiet;
  running.WaitingHook::unlink();
  if (!running.failed) running.DueHook::unlink();
  // Whose memory has gone may be why the lane failed.
  if (!end.outcome) fail_running(key, lost_input(running).value_or(end.outcome.error()));
  else if (!running.failed) finish(key);
  if (end.quiet) lane_is_quiet(key);
}

/// If the op has failed already, its inputs and regions end here.
void OpRuns::lane_is_quiet(std::uint64_t key) {
  const auto found = running_.find(key);
  if (found != running_.end() && found->second.failed) running_.erase(found);
}

void OpRuns::expire(TimePoint now) {
  for (std::size_t left = effort_of_turn; left > 0 && !due_.empty() && due_.begin()->deadline <= now;) {
    const RunningOp& late = *due_.begin();
    left -= std::min(left, effort_of(*late.op));
    fail_running(
        late.key,
        Error(Code::timeout,
              fmt::format(
                  "{} had all its inputs, and its deadline passed before the {} that it reads and writes were done",
                  late.op->name, muster::ipc::bytes_text(late.plan.work_bytes)),
              "give it a longer timeout, or find out what else keeps the machine busy"));
  }
}

std::optional<TimePoint> OpRuns::next_deadline() const {
  if (due_.empty()) return std::nullopt;
  return due_.begin()->deadline;
}

}  // namespace musterd
