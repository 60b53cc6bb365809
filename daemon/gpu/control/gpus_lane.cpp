#include "gpu/control/gpus_lane.hpp"

#include <algorithm>
#include <utility>

#include "base/heap_reserve.hpp"

namespace musterd::gpu {

using muster::Code;
using muster::Error;
using muster::Result;

namespace {

constexpr TimePoint at_once{};

/// What it takes to start a job, or to tell its end: see GpusLaneSettings::effort_max.
std::size_t effort_of(const Job& job) {
  constexpr std::size_t effort_of_part = 4;
  constexpr std::size_t items_each = 8;
  const Work& work = job.work;
  const std::size_t items = work.inputs.size() + work.folds.size() + work.copies.size() + work.parts.size() +
                            job.outputs.size() + work.last_folds.size() + work.last_inputs.size();
  // Each part looks for its own transfers among all of them.
  const std::size_t looks = work.transfers.size() * job.devices.size();
  return effort_of_part * job.devices.size() + (items + looks) / items_each;
}

}  // namespace

GpusLane::GpusLane(GpusLaneSettings settings, GpuSet gpus)
    : settings_(settings),
      gpus_(std::move(gpus)),
      communicators_(settings.communicators,
                     {.ready = [this] { communicator_ready(); },
                      .broken = [this](CommunicatorId id, const Why& why) { communicator_broken(id, why); }}),
      no_memory_(std::make_shared<const Error>(no_heap())),
      was_cancelled_(std::make_shared<const Error>(Code::failed, "it was cancelled before it began")) {
  for (Gpu* const gpu : gpus_) gpu->listen(communicators_);
}

Gpu* GpusLane::find(muster::Device device) const {
  const auto found = std::ranges::find(gpus_, device, [](const Gpu* gpu) { return gpu->device(); });
  return found == gpus_.end() ? nullptr : *found;
}

bool GpusLane::has(std::span<const muster::Device> devices) const {
  return std::ranges::all_of(devices, [&](muster::Device device) { return find(device) != nullptr; });
}

/// To hand a job to other processes takes longer than the daemon may be held up.
std::optional<Duration> GpusLane::run_at_once(const Job& /*job*/) { return std::nullopt; }

void GpusLane::start(Job job, TimePoint /*deadline*/) {
  const auto added = jobs_.try_emplace(job.id).first;
  Running& running = added->second;
  try {
    running.team.user = job.process.user;
    for (const auto device : job.devices) running.team.gpus.push_back(find(device));
    running.failed = communicators_.unavailable(running.team);
    if (!running.failed) running.communicator = communicators_.want(running.team);
  } catch (...) {
    jobs_.erase(added);
    throw;
  }
  running.job = std::move(job);
  if (running.failed) has_unsettled_ = true;
  else if (communicators_.is_ready(running.communicator) && !has_unstarted_) start_parts(running);
}

void GpusLane::communicator_ready() noexcept {
  has_unstarted_ = true;
  start_some();
}

/// Very many may have waited for a communicator. The first ones go first.
void GpusLane::start_some() noexcept {
  if (!std::exchange(has_unstarted_, false)) return;
  std::size_t left = settings_.effort_max;
  for (auto& [id, running] : jobs_) {
    if (running.is_started || running.failed || !communicators_.is_ready(running.communicator)) continue;
    has_unstarted_ = left == 0;
    if (has_unstarted_) return;
    left -= std::min(left, effort_of(running.job));
    start_parts(running);
  }
}

/// Nothing here calls back: parts end in events of their own. A job for which one of the workers is too busy fails
/// alone: if some of its parts began, the others could not end without giving up the communicator.
void GpusLane::start_parts(Running& running) noexcept {
  try {
    for (const Gpu* const member : running.team.gpus)
      if (auto room = member->need_room(running.team.user); !room)
        return fail(running, why_of(room.error(), no_memory_));
    std::vector<Job> parts;
    for (std::uint32_t rank = 0; rank < running.team.gpus.size(); ++rank) {
      parts.push_back(part_of(running.job, rank));
      parts.back().ended = [this, id = running.job.id](const JobEnd& end) { part_ended(id, end.outcome); };
    }
    running.is_started = true;
    for (std::uint32_t rank = 0; rank < parts.size(); ++rank) {
      running.team.gpus[rank]->start_part(std::move(parts[rank]), {running.communicator, rank});
      ++running.parts;
    }
  } catch (const std::exception&) {
    fail(running, no_memory_);
    // Some parts may wait for those that there are not.
    if (running.parts > 0) communicators_.give_up(running.communicator, no_memory_);
  }
}

void GpusLane::part_ended(JobId id, const Result<void>& outcome) noexcept {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  Running& running = found->second;
  --running.parts;
  if (!outcome) {
    const Why why = why_of(outcome.error(), no_memory_);
    fail(running, why);
    communicators_.give_up(running.communicator, why);
  }
  try {
    settle(id);
  } catch (const std::exception&) {
    has_unsettled_ = true;  // the next tick tries again
  }
}

void GpusLane::communicator_broken(CommunicatorId id, const Why& why) noexcept {
  for (auto& [job, running] : jobs_)
    if (running.communicator == id) fail(running, why);
}

void GpusLane::fail(Running& running, const Why& why) noexcept {
  if (!running.failed) running.failed = why;
  has_unsettled_ = true;
}

void GpusLane::cancel(JobId job) noexcept {
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return;
  Running& running = found->second;
  running.is_cancelled = true;
  if (!running.is_started) return fail(running, was_cancelled_);
  has_cancelled_ = true;
  cancel_parts(running);
}

void GpusLane::cancel_parts(Running& running) noexcept {
  if (running.parts == 0 || std::exchange(running.parts_cancelled, true)) return;
  for (Gpu* const member : running.team.gpus) member->cancel(running.job.id);
}

/// Tells what is known of a job's end and has not been told.
std::size_t GpusLane::settle(JobId id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return 0;
  Running& running = found->second;
  const bool is_quiet = running.parts == 0;
  if (!running.failed && !(running.is_started && is_quiet)) return 0;
  if (running.is_told && !is_quiet) return 0;
  if (running.failed) cancel_parts(running);
  const std::size_t effort = effort_of(running.job);
  JobEnd end{running.failed ? Result<void>(*running.failed) : Result<void>(), is_quiet};
  const auto ended = running.job.ended;
  const bool was_told = std::exchange(running.is_told, true);
  if (!is_quiet) {
    ended(std::move(end));
    return effort;
  }
  const auto over = jobs_.extract(found);
  communicators_.done(over.mapped().communicator);
  if (was_told) over.mapped().job.quiet();
  else ended(std::move(end));
  return effort;
}

void GpusLane::settle_some() {
  if (!std::exchange(has_unsettled_, false)) return;
  try {
    std::size_t left = settings_.effort_max;
    // What is told may start and cancel other jobs.
    for (auto next = jobs_.begin(); next != jobs_.end() && left > 0;) {
      const JobId id = next->first;
      left -= std::min(left, settle(id));
      next = jobs_.upper_bound(id);
    }
    has_unsettled_ |= left == 0;
  } catch (...) {
    has_unsettled_ = true;
    throw;
  }
}

void GpusLane::give_up_late(TimePoint now) {
  if (!has_cancelled_) return;
  bool any = false;
  for (auto& [id, running] : jobs_) {
    if (!running.is_cancelled || !running.is_started || running.failed) continue;
    any = true;
    if (!running.give_up_at) running.give_up_at = now + settings_.cancel_timeout;
    if (now < *running.give_up_at) continue;
    communicators_.give_up(
        running.communicator,
        why_of(Error(Code::failed, "an op over the same GPUs was cancelled and did not end", "call it again"),
               no_memory_));
  }
  has_cancelled_ = any;
}

void GpusLane::tick(TimePoint now) {
  communicators_.tick(now);
  give_up_late(now);
  start_some();
  settle_some();
}

std::optional<TimePoint> GpusLane::next_deadline() const {
  if (has_unstarted_ || has_unsettled_) return at_once;
  std::optional<TimePoint> earliest = communicators_.next_deadline();
  if (!has_cancelled_) return earliest;
  for (const auto& [id, running] : jobs_)
    if (running.is_cancelled && running.is_started && !running.failed)
      earliest = std::min(earliest.value_or(TimePoint::max()), running.give_up_at.value_or(at_once));
  return earliest;
}

}  // namespace musterd::gpu
