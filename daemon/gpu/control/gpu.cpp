#include "gpu/control/gpu.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>

namespace musterd::gpu {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

Gpu::Gpu(GpuSettings settings, WorkerPort& port, DeviceMemory::Post post)
    : settings_(settings), port_(port), post_(std::move(post)) {}

Gpu::~Gpu() { *self_ = nullptr; }

template <class MakeBody>
void Gpu::say(wire::Body type, const MakeBody& make_body, SharedFd fd, std::optional<UserId> user) {
  port_.send(worker_frame(type, make_body), std::move(fd), user);
}

Error Gpu::unusable() const {
  const std::string why = why_ended_ ? why_ended_->message() : "its worker is being replaced";
  const std::string hint = why_ended_ ? why_ended_->hint() : "try again in a moment";
  return {Code::failed, fmt::format("{} can't be used now: {}", name(settings_.device), why), hint};
}

/// A worker that takes the place of another gets all memory that is there.
Result<void> Gpu::need_worker() {
  if (state_ == State::starting || state_ == State::ready) return {};
  if (state_ != State::none) return unusable();
  if (auto started = port_.start(); !started) return started.error();
  state_ = State::starting;
  why_ended_.reset();
  answer_until_.reset();
  try {
    for (const auto& [id, allocation] : allocations_) {
      if (!allocation->is_made()) continue;
      if (allocation->in_place) {
        if (!allocation->is_owner_gone) say_make(*allocation, {});
        continue;
      }
      const auto adopt = [&, number = id.value, bytes = allocation->bytes](auto& fbb) {
        return wire::CreateAdopt(fbb, number, bytes);
      };
      // The worker may be slow to take them all: each descriptor stays open until it was sent, and none is copied.
      say(wire::Body_Adopt, adopt, SharedFd(allocation, &allocation->fd));
    }
  } catch (...) {
    fail_worker(Error(Code::out_of_memory, "the daemon has no memory left to start its worker", "try again"));
    throw;
  }
  return {};
}

/// What ends something is always sent: there is at most one such frame for each that has begun. A user for whom nothing
/// waits may always begin something, so one user's requests can delay those of others, and not refuse them.
Result<void> Gpu::need_room(UserId user) const {
  const std::size_t own = port_.waiting_bytes(user);
  const std::size_t others = std::min(port_.waiting_bytes() - own, settings_.waiting_bytes_max);
  if (own == 0 || own < (settings_.waiting_bytes_max - others) / 2) return {};
  return Error(Code::quota_exceeded,
               fmt::format("{} is too busy: {} of requests of user {} wait for its worker", name(settings_.device),
                           ipc::bytes_text(own), user),
               "wait for the results of some ops before you call more");
}

void Gpu::say_make(const DeviceAllocation& allocation, std::optional<UserId> user) {
  const auto id = allocation.id.value;
  if (!allocation.in_place)
    return say(
        wire::Body_Make, [&](auto& fbb) { return wire::CreateMake(fbb, id, allocation.bytes); }, nullptr, user);
  const auto memory = ipc::in_place_as<wire::InPlace>(*allocation.in_place);
  say(
      wire::Body_Open, [&](auto& fbb) { return wire::CreateOpen(fbb, id, &memory); }, nullptr, user);
}

Result<SegmentMemoryPtr> Gpu::create(const SegmentSpec& spec) {
  if (auto worker = need_worker(); !worker) return worker.error();
  if (auto room = need_room(spec.user); !room) return room.error();
  auto allocation = std::make_shared<DeviceAllocation>();
  allocation->id = spec.id;
  allocation->device = settings_.device;
  allocation->bytes = spec.bytes;
  if (spec.in_place) allocation->in_place = *spec.in_place;
  auto at_end = errand([self = self_, ended = std::weak_ptr(allocation), id = spec.id] {
    if (*self) (*self)->drop(id, ended.lock());
  });
  auto& known = allocations_[spec.id];
  if (known && known->is_coming()) --making_;  // a number serves again if its segment was not made after all
  known = allocation;
  ++making_;
  // From here on the end of the memory undoes it all.
  SegmentMemoryPtr memory = [&] {
    try {
      return std::make_shared<DeviceMemory>(allocation, post_, std::move(at_end));
    } catch (...) {
      --making_;
      allocations_.erase(spec.id);
      throw;
    }
  }();
  try {
    say_make(*allocation, spec.user);
  } catch (...) {
    end_worker();  // it may have heard of a segment whose number serves again
    throw;
  }
  return memory;
}

/// What the worker has been asked to make stays known until it answers: otherwise nobody would notice that it hangs.
void Gpu::drop(SegmentId segment, const std::shared_ptr<DeviceAllocation>& ended) {
  const auto found = allocations_.find(segment);
  if (found == allocations_.end() || found->second != ended) return;
  if (ended->is_coming()) {
    ended->waiting = {};
    ended->is_unwanted = true;
  } else {
    allocations_.erase(found);
  }
  const bool is_awaited = !ended->closing.empty();
  if (is_awaited) closing_.splice(closing_.end(), ended->closing);
  if (state_ == State::none || state_ == State::pausing) return tell(std::exchange(closing_, {}));
  if (state_ == State::ending) return;
  try {
    say(wire::Body_Drop, [&](auto& fbb) { return wire::CreateDrop(fbb, segment.value, is_awaited); });
  } catch (const std::exception&) {
    // The worker would keep memory that nobody pays for any more. The next one does not get it.
    end_worker();
  }
}

/// To hand a job to another process takes longer than the daemon may be held up.
std::optional<Duration> Gpu::run_at_once(const Job& /*job*/) { return std::nullopt; }

void Gpu::start(Job job, TimePoint /*deadline*/) {
  const auto frames = job_frames(job);
  begin(frames, std::move(job));
}

void Gpu::start_part(Job part, CommunicatorSeat seat) {
  const auto frames = job_frames(part, seat);
  begin(frames, std::move(part));
}

void Gpu::begin(const std::vector<WorkerFrame>& frames, Job job) {
  const JobId id = job.id;
  const UserId user = job.process.user;
  const auto running = jobs_.try_emplace(id).first;
  try {
    running->second.watch.emplace_back(Cancelled{id, std::nullopt});
    running->second.ended = std::move(job.ended);
    auto possible = need_worker();
    if (possible) possible = need_room(user);
    if (!possible)
      return post_(errand([self = self_, id, why = possible.error()] {
        if (*self) (*self)->job_ended(id, why);
      }));
  } catch (...) {
    jobs_.erase(running);
    throw;
  }
  try {
    for (const auto& frame : frames) port_.send(frame, nullptr, user);
  } catch (...) {
    // The worker may have heard of the job, whose memory others get now.
    jobs_.erase(running);
    end_worker();
    throw;
  }
}

void Gpu::cancel(JobId job) noexcept {
  const auto running = jobs_.find(job);
  if (running == jobs_.end() || running->second.watch.empty()) return;
  cancelled_.splice(cancelled_.end(), running->second.watch);
  running->second.cancelled = std::prev(cancelled_.end());
  if (state_ != State::starting && state_ != State::ready) return;
  try {
    say(wire::Body_Cancel, [&](auto& fbb) { return wire::CreateCancel(fbb, job); });
  } catch (const std::exception&) {
    // The job may still end by itself; otherwise its worker ends after a while.
  }
}

Result<void> Gpu::name_communicator(CommunicatorId communicator) {
  if (auto worker = need_worker(); !worker) return worker;
  say(wire::Body_Name, [&](auto& fbb) { return wire::CreateName(fbb, communicator); });
  return {};
}

Result<void> Gpu::join(CommunicatorSeat seat, std::uint32_t ranks, std::span<const std::uint8_t> unique_id) {
  if (auto worker = need_worker(); !worker) return worker;
  say(wire::Body_Join, [&](auto& fbb) {
    const auto id = fbb.CreateVector(unique_id.data(), unique_id.size());
    return wire::CreateJoin(fbb, seat.communicator, ranks, seat.rank, id);
  });
  return {};
}

bool Gpu::leave(CommunicatorId communicator, Leaving how) noexcept {
  if (state_ == State::ending) return true;
  if (state_ != State::starting && state_ != State::ready) return false;
  try {
    say(wire::Body_Leave, [&](auto& fbb) { return wire::CreateLeave(fbb, communicator, how == Leaving::abort); });
  } catch (const std::exception&) {
    end_worker();  // it would stay in it, and so would others
  }
  return true;
}

void Gpu::received(std::span<const std::byte> bytes, std::vector<ipc::Fd> fds, TimePoint /*now*/) {
  if (state_ != State::starting && state_ != State::ready) return;  // of a worker that was killed
  answer_until_.reset();
  const auto* frame = read_worker_frame(bytes);
  if (!frame)
    return fail_worker(Error(Code::failed, fmt::format("its worker sent {} bytes that make no sense", bytes.size())));
  if (frame->body_as_Ready()) {
    state_ = State::ready;
  } else if (const auto* there = frame->body_as_Made()) {
    if (fds.size() == 1) made({there->segment()}, std::move(fds.front()));
    else if (const auto known = allocations_.find({there->segment()});
             known == allocations_.end() || known->second->in_place)
      made({there->segment()}, ipc::Fd());
    else
      made({there->segment()}, Error(Code::quota_exceeded, "the daemon may open no more descriptors",
                                     "free objects that are not needed, or raise the daemon's limit, ulimit -n"));
  } else if (const auto* missing = frame->body_as_NotMade()) {
    made({missing->segment()}, error_of(*missing->why()));
  } else if (const auto* closed = frame->body_as_Dropped()) {
    dropped({closed->segment()});
  } else if (const auto* over = frame->body_as_Ended()) {
    useful_ = true;
    job_ended(over->job(), over->why() ? Result<void>(error_of(*over->why())) : Result<void>());
  } else if (const auto* unable = frame->body_as_Unable()) {
    fail_worker(error_of(*unable->why()));
  } else if (!heard_of_communicator(*frame)) {
    fail_worker(Error(Code::failed, fmt::format("its worker sent a frame of the unknown type {}",
                                                static_cast<int>(frame->body_type()))));
  }
}

std::uint64_t Gpu::work_bytes() const noexcept {
  std::uint64_t bytes = 0;
  for (const auto& [communicator, taken] : taken_bytes_) bytes += taken;
  return bytes;
}

/// False if the frame is about something else.
bool Gpu::heard_of_communicator(const wire::Frame& frame) {
  if (!events_) return false;
  if (const auto* named = frame.body_as_Named()) {
    events_->named(*this, named->communicator(), {named->id()->data(), named->id()->size()});
  } else if (const auto* joined = frame.body_as_Joined()) {
    useful_ = true;
    events_->joined(*this, joined->communicator());
  } else if (const auto* broken = frame.body_as_Broken()) {
    events_->broken(*this, broken->communicator(), error_of(*broken->why()));
  } else if (const auto* took = frame.body_as_Took()) {
    taken_bytes_[took->communicator()] = took->bytes();
  } else if (const auto* left = frame.body_as_Left()) {
    taken_bytes_.erase(left->communicator());
    events_->left(*this, left->communicator());
  } else {
    return false;
  }
  return true;
}

void Gpu::made(SegmentId segment, Result<ipc::Fd> made) {
  const auto found = allocations_.find(segment);
  if (found == allocations_.end()) return;  // nobody wants it any more
  if (!found->second->is_coming()) return made_again(*found->second, made);
  useful_ = useful_ || static_cast<bool>(made);
  if (!found->second->is_unwanted) return finish(*std::shared_ptr(found->second), std::move(made));
  --making_;
  allocations_.erase(found);
}

/// What a new worker says of memory that was there. What it adopts is there in any case; what was left in place may
/// not be: it is open in no worker then.
void Gpu::made_again(DeviceAllocation& allocation, const Result<ipc::Fd>& made) {
  if (made || !allocation.in_place) return;
  allocation.lost = made.error();
  allocation.is_open = false;
}

/// What may throw for lack of memory comes before anything is changed.
void Gpu::finish(DeviceAllocation& allocation, Result<ipc::Fd> made) {
  Outcomes outcomes(allocation.waiting.size(), made ? Result<void>() : made.error());
  std::optional<Error> lost;
  if (!made) lost = made.error();
  --making_;
  if (!made) allocation.lost = std::move(lost);
  else if (allocation.in_place) allocation.is_open = true;
  else allocation.fd = std::move(*made);
  tell(allocation, std::move(outcomes));
}

void Gpu::dropped(SegmentId segment) {
  const auto found = std::ranges::find(closing_, segment, &DeviceAllocation::Closing::segment);
  if (found == closing_.end()) return;
  Closing closed;
  closed.splice(closed.end(), closing_, found);
  tell(std::move(closed));
}

void Gpu::tell(Closing closed) {
  for (const auto& each : closed) each.then();
}

void Gpu::tell(DeviceAllocation& allocation, Outcomes outcomes) {
  auto outcome = outcomes.begin();
  for (const auto& then : std::exchange(allocation.waiting, {})) then(std::move(*outcome++));
}

/// Memory that is being made is lost. `tell()` then tells those who wait; it takes no memory.
Gpu::Lost Gpu::lose_coming(const Error& why) {
  Lost lost;
  for (const auto& [id, allocation] : allocations_)
    if (allocation->is_coming())
      lost.push_back({allocation, why, Outcomes(allocation->waiting.size(), Result<void>(why))});
  for (auto& [allocation, reason, outcomes] : lost) {
    --making_;
    allocation->lost = std::move(reason);
  }
  std::erase_if(allocations_, [](const auto& each) { return each.second->is_unwanted; });
  return lost;
}

void Gpu::tell(Lost lost) {
  for (auto& [allocation, reason, outcomes] : lost) tell(*allocation, std::move(outcomes));
}

void Gpu::job_ended(JobId id, Result<void> outcome) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  const Running over = std::move(found->second);
  jobs_.erase(found);
  if (over.cancelled) cancelled_.erase(*over.cancelled);
  over.ended({std::move(outcome), true});
}

/// Leases need not wait until the worker's process is gone; only what it may still write has to.
void Gpu::fail_worker(Error why) {
  auto lost = lose_coming(as_told(why));
  why_ended_ = std::move(why);
  end_worker();
  tell(std::move(lost));
}

/// A failure of the worker, as others hear of it.
Error Gpu::as_told(const Error& why) const {
  return {why.code(), fmt::format("{} failed: {}", name(settings_.device), why.message()), why.hint()};
}

void Gpu::end_worker() noexcept {
  state_ = State::ending;
  port_.kill();
}

void Gpu::worker_ended(const std::string& how, TimePoint now) {
  if (state_ == State::none || state_ == State::pausing) return;
  if (state_ != State::ending || !why_ended_)
    why_ended_ = Error(Code::failed, "its worker ended: " + how,
                       "see what `nvidia-smi` says of the GPU; what was stored is still there");
  const Error why = as_told(*why_ended_);
  std::vector<JobEnd> ends(jobs_.size(), JobEnd{why, true});
  auto lost = lose_coming(why);
  // If anything above has found no memory, this is called again.
  answer_until_.reset();
  // From here on there is nothing to cancel.
  auto over = std::exchange(jobs_, {});
  Closing closed = std::exchange(closing_, {});
  cancelled_.clear();
  taken_bytes_.clear();
  if (std::exchange(useful_, false)) {
    pause_ = {};
    state_ = State::none;
  } else {
    pause_ = std::clamp(2 * pause_, settings_.pause_min, settings_.pause_max);
    pause_until_ = now + pause_;
    state_ = State::pausing;
  }
  if (events_) events_->worker_gone(*this, why);
  // A rank that is told of a failure may start the next worker at once.
  auto end = ends.begin();
  for (auto& [id, running] : over) running.ended(std::move(*end++));
  tell(std::move(lost));
  tell(std::move(closed));
}

void Gpu::tick(TimePoint now) {
  if (state_ == State::pausing && now >= *pause_until_) state_ = State::none;
  if (state_ != State::starting && state_ != State::ready) return;
  // A worker that is still starting can't have begun a job.
  if (state_ == State::ready)
    for (auto late = cancelled_.rbegin(); late != cancelled_.rend() && !late->until; ++late)
      late->until = now + settings_.quiet_timeout;
  if (const auto until = quiet_until(); until && now >= *until)
    return fail_worker(Error(Code::failed, "a job that was cancelled did not end",
                             "see what `nvidia-smi` says of the GPU; what was stored is still there"));
  if (!awaits_answer()) return answer_until_.reset();
  if (!answer_until_) answer_until_ = now + settings_.answer_timeout;
  if (now >= *answer_until_)
    fail_worker(Error(Code::timeout,
                      fmt::format("its worker did not answer within {} s",
                                  std::chrono::duration_cast<std::chrono::seconds>(settings_.answer_timeout).count()),
                      "see what `nvidia-smi` says of the GPU"));
}

/// When the first cancelled job has to be quiet.
std::optional<TimePoint> Gpu::quiet_until() const {
  return cancelled_.empty() ? std::nullopt : cancelled_.front().until;
}

std::optional<TimePoint> Gpu::next_deadline() const {
  constexpr TimePoint at_once{};
  if (state_ == State::pausing) return pause_until_;
  if (state_ != State::starting && state_ != State::ready) return std::nullopt;
  if (state_ == State::ready && !cancelled_.empty() && !cancelled_.back().until) return at_once;
  std::optional<TimePoint> earliest = quiet_until();
  if (awaits_answer()) earliest = std::min(earliest.value_or(TimePoint::max()), answer_until_.value_or(at_once));
  return earliest;
}

}  // namespace musterd::gpu
