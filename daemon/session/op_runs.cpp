#include "session/op_runs.hpp"

#include <algorithm>
#include <functional>
#include <utility>

#include <fmt/format.h>

#include "base/assert.hpp"
#include "base/heap_reserve.hpp"
#include "collective/op_effort.hpp"
#include "collective/plan_work.hpp"
#include "session/turn.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

namespace {

/// Ops with results up to this size don't wait behind larger ones.
constexpr std::uint64_t small_result_bytes_max = 64 << 10;
/// A larger plan is made only if there is room for it.
constexpr std::uint64_t plan_bytes_at_once = 64 << 10;

/// The effort of running an op once it has its memory (see effort_of_turn): its folds, if the control thread does them,
/// its results and their segments, and its end.
Effort effort_of_running(const RunningOp& running, std::size_t outputs) {
  constexpr std::size_t least = 4;
  constexpr std::uint64_t bytes_folded_each = 4 << 10;
  constexpr std::uint64_t bytes_made_each = 32 << 10;
  constexpr std::uint64_t made_max = 256;  // the rest is made in turns of its own
  const std::uint64_t work_bytes = running.planned ? running.plan.work_bytes : running.plan_bytes;
  const std::uint64_t folded = work_bytes <= at_once_bytes_max ? work_bytes / bytes_folded_each : 0;
  const std::size_t end = effort_of(*running.op);
  return {.serve = least + folded + std::min(running.result_bytes / bytes_made_each, made_max) + outputs + end,
          .give_up = end};
}

}  // namespace

/// If anything is thrown, the op fails on every seat.
void OpRuns::start(const GroupPtr& state, const OpPtr& op, UserId user) noexcept {
  MUSTER_ASSERT(!op->contributions.empty(), "an op that starts has contributions");
  const std::uint64_t key = ++last_key_;
  try {
    begin(key, state, op, user);
  } catch (const std::exception&) {
    if (running_.contains(key)) return fail_running(key, no_heap());
    if (state) state->muster->finished(op->id);
    fail(state.get(), *op, no_heap());
  }
}

void OpRuns::drop_unwanted() {
  for (std::size_t left = effort_of_turn; const RunningOp* const unwanted = long_ops_.next_unwanted(left);) {
    left -= std::min(left, effort_of(*unwanted->op));
    drop(*unwanted);
  }
}

void OpRuns::drop(const RunningOp& running) {
  fail_running(running.key, Error(Code::peer_lost, "everybody who took part in the op has gone"));
}

void OpRuns::go_on() {
  make_more();
  parts_.giver.go_on();
  drop_unwanted();
}

void OpRuns::give_all() noexcept {
  while (parts_.giver.goes_on()) parts_.giver.go_on();
}

void OpRuns::begin(std::uint64_t key, const GroupPtr& state, const OpPtr& op, UserId user) {
  RunningOp& running = running_[key];
  running.key = key;
  running.op = op;
  running.group = state;
  running.user = user;
  running.reads_in_place = reads_in_place(*op);
  const auto extent = measure_plan(*op, sharing_of(running), takers_of(running));
  if (!extent) return fail_running(key, extent.error());
  running.plan_bytes = extent->bytes;
  if (auto fits = parts_.ledger.possible({user, {}}, Resource::memory, extent->outputs == 0 ? 0 : extent->bytes); !fits)
    return fail_running(key, fits.error());
  if (extent->outputs == 0 || extent->bytes <= plan_bytes_at_once) {
    if (auto planned = plan(running); !planned) return fail_running(key, planned.error());
    if (running.plan.outputs.empty()) return finish(key);
  }
  // Ops wait in line with all other requests for memory, except small ones.
  const bool small = running.planned && running.result_bytes <= small_result_bytes_max &&
                     running.plan_bytes <= OpMemory::plan_bytes_free;
  const auto waiter = parts_.admission.request(
      {user, {}}, small ? Admission::Size::small : Admission::Size::large, deadline_of(*op),
      [this, key](Turn turn) { return attempt(key, turn); },
      [this, key](const Error& error) { give_up_running(key, error); }, effort_of_running(running, extent->outputs));
  if (waiter) put_aside(key, *waiter);
}

/// Returns an error only if the op has to wait for memory. If it fails for another reason, it is over, and this returns
/// ok.
Result<void> OpRuns::attempt(std::uint64_t key, Turn turn) {
  RunningOp& running = running_.at(key);
  const bool first = !running.planned;
  if (first) {
    if (auto room = memory_.has_room_for_plan(running); !room) return room;
    if (auto planned = plan(running); !planned) return fail_running(key, planned.error()), Result<void>();
    if (running.plan.outputs.empty()) return finish(key), Result<void>();
  }
  auto allocated = parts_.pressure.try_quietly([&] { return memory_.take(running, turn); });
  if (allocated) return go_on_making(key), Result<void>();
  if (first)
    if (auto kept = memory_.keep_sizes(running); !kept) return fail_running(key, kept.error()), Result<void>();
  return allocated;
}

/// Makes the plan of an op that has none yet. Refuses an op whose results can never fit.
Result<void> OpRuns::plan(RunningOp& running) {
  auto plan = plan_of(running);
  if (!plan) return plan.error();
  running.plan = std::move(*plan);
  running.planned = true;
  running.regions.reserve(running.plan.outputs.size());
  running.plan_bytes = running.plan.own_bytes();
  for (const auto& output : running.plan.outputs) running.result_bytes += output.bytes;
  if (running.plan.outputs.empty()) return {};
  if (auto can_be_done = check_devices(running); !can_be_done) return can_be_done;
  const Payer payer{running.user, {}};
  Amounts needed = bytes_needed(running.plan);
  needed[Resource::memory] += running.plan_bytes;
  if (auto fits = parts_.ledger.possible(payer, Resource::memory, needed[Resource::memory]); !fits) return fits;
  for (const auto device : running.plan.devices)
    if (auto fits = parts_.ledger.possible(payer, memory_of(device), needed[memory_of(device)]); !fits) return fits;
  return {};
}

Result<void> OpRuns::check_devices(const RunningOp& running) const {
  const auto refused = [&](const std::string& what, const char* hint) {
    return Error(Code::invalid, running.op->name + what, hint);
  };
  const auto& devices = running.plan.devices;
  const bool on_host = std::ranges::all_of(devices, [](muster::Device device) { return device.is_host(); });
  // Whoever maps memory of a GPU can write there, so nobody gets any of another user's.
  if (sharing_of(running) == Sharing::copy && !on_host)
    return refused(fmt::format(" has arrays on {}, and its group is open to other users", devices_text(devices)),
                   "give arrays of the host, or use a group that is not open");
  if (!parts_.outside.lane(devices))
    return refused(fmt::format(" is to be done on {}, and nothing here works there", devices_text(devices)),
                   "give arrays of the host");
  return {};
}

/// Thousands of ops may wait for memory for long. So a large plan is made again later, and not kept.
void OpRuns::put_aside(std::uint64_t key, Admission::WaiterId waiter) {
  RunningOp& waiting = running_.at(key);
  waiting.waiter = waiter;
  long_ops_.add_waiting(waiting);
  // The loss of its last rank may have completed the op just now.
  std::size_t left = effort_of_turn;
  if (!long_ops_.is_wanted(waiting, left)) return drop(waiting);
  if (auto kept = memory_.keep_sizes(waiting); !kept) fail_running(key, kept.error());
}

/// The op has its memory booked, and begins as soon as all segments are made. Hundreds of segments take tens of
/// milliseconds, so others have their turns in between.
void OpRuns::go_on_making(std::uint64_t key) {
  RunningOp& running = running_.at(key);
  running.waiter.reset();
  running.WaitingHook::unlink();
  if (running.regions_made == running.regions.size()) return launch(key);
  being_made_.push_back(running);
  watch(running);
  if (auto charged = memory_.charge(running, 0); !charged) fail_running(key, charged.error());
}

void OpRuns::make_more() {
  if (being_made_.empty()) return;
  RunningOp& first = being_made_.front();
  const std::uint64_t key = first.key;
  try {
    if (auto made = memory_.make_some(first); !made) return fail_running(key, made.error());
    go_on_making(key);
  } catch (const std::exception&) {
    fail_running(key, no_heap());
  }
}

/// What may throw for lack of memory comes before any rank is told, so that the op can still fail for all.
void OpRuns::finish(std::uint64_t key) try {
  RunningOp& running = running_.at(key);
  if (const auto lost = lost_input(running)) return fail_running(key, *lost);
  auto outputs = publish(running);
  if (!outputs) return fail_running(key, outputs.error());
  const auto remembered = Retries::to_remember(running, *outputs);
  auto prepared = parts_.giver.prepare(running, std::move(*outputs));
  if (!prepared) return fail_running(key, prepared.error());
  if (prepared->takes_turns && running.plan_charge.amount() == 0)
    if (auto charged = memory_.charge(running, running.plan_bytes); !charged) return fail_running(key, charged.error());
  if (auto room = parts_.giver.reserve(running); !room) return fail_running(key, room.error());
  // From here on nothing fails.
  running.DueHook::unlink();
  const GroupPtr group = running.group;
  const OpPtr op = running.op;
  if (!remembered.empty()) parts_.history.remember(*group, *op, remembered);
  if (running.group) ++running.group->ops_done, running.group->muster->finished(running.op->id);
  ++parts_.counts.ops_done;
  parts_.giver.give(std::move(*prepared), running_.extract(key));
  if (!remembered.empty()) parts_.retries.answer_those_who_called(*group, op->key);
} catch (const std::exception&) {
  fail_running(key, no_heap());
}

/// Fails an op. If it is with a lane, its inputs and regions stay as they are until the job is quiet.
void OpRuns::fail_running(std::uint64_t key, const Error& error) noexcept {
  const auto found = running_.find(key);
  if (found == running_.end() || found->second.failed) return;
  RunningOp& over = found->second;
  over.failed = true;
  if (over.waiter) parts_.admission.cancel(*over.waiter);
  const GroupPtr group = std::move(over.group);
  if (group) group->muster->finished(over.op->id);
  fail(group.get(), *over.op, error);
  if (!over.with_lane) return static_cast<void>(running_.erase(found));
  over.DueHook::unlink();
  over.WaitingHook::unlink();
  parts_.outside.lane(over.plan.devices)->cancel(key);
}

void OpRuns::fail(GroupState* state, const Op& op, const Error& error) noexcept {
  ++parts_.counts.ops_failed;
  if (state) ++state->ops_failed;
  for (const auto& contribution : op.contributions) parts_.works.settle_failed(contribution.ticket, error);
}

void OpRuns::give_up_running(std::uint64_t key, const Error& error) noexcept {
  try {
    const RunningOp& running = running_.at(key);
    // All seats read the error, and those of an open group have no user in common.
    constexpr UserId nobody = ~UserId{0};
    const bool open = running.group && running.group->group.settings().open;
    const auto seen_by = open ? nobody : parts_.clients.view_of(running.user);
    fail_running(key, parts_.pressure.with_holders(error, seen_by, parts_.now, running.lacks));
  } catch (const std::exception&) {
    fail_running(key, no_heap());
  }
}

Result<Objects> OpRuns::publish(RunningOp& running) const {
  Objects objects;
  for (std::size_t i = 0; i < running.plan.outputs.size(); ++i) {
    if (running.plan.outputs[i].is_scratch) {
      objects.emplace_back();
      continue;
    }
    auto manifest = std::move(running.plan.outputs[i].manifest);
    for (auto& leaf : manifest.leaves) {
      if (leaf.bytes() == 0) continue;
      leaf.segment = running.regions[i].segment();
      leaf.offset += running.regions[i].offset();
    }
    auto object = parts_.store.add_result(running.user, parts_.outside.random_capability(), std::move(manifest),
                                          std::move(running.regions[i]), parts_.now);
    if (!object) return object.error();
    objects.push_back(std::move(*object));
  }
  return objects;
}

}  // namespace musterd
