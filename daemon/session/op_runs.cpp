#include "session/op_runs.hpp"

#include <algorithm>
#include <functional>
#include <utility>

#include "base/assert.hpp"
#include "base/heap_reserve.hpp"
#include "collective/op_effort.hpp"
#include "session/turn.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

namespace {

/// Ops with results up to this size don't wait behind larger ones.
constexpr std::uint64_t small_result_bytes_max = 64 << 10;
/// The charge of an op covers a plan of this size.
constexpr std::uint64_t plan_bytes_free = 4096;
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

void OpRuns::go_on() {
  make_more();
  giver_.go_on();
  drop_unwanted();
}

void OpRuns::give_all() noexcept {
  while (giver_.goes_on()) giver_.go_on();
}

void OpRuns::begin(std::uint64_t key, const GroupPtr& state, const OpPtr& op, UserId user) {
  RunningOp& running = running_[key];
  running.key = key;
  running.op = op;
  running.group = state;
  running.user = user;
  const auto extent = measure_plan(*op, sharing_of(running));
  if (!extent) return fail_running(key, extent.error());
  running.plan_bytes = extent->bytes;
  if (auto fits = parts_.ledger.possible({user, {}}, Resource::memory, extent->outputs == 0 ? 0 : extent->bytes); !fits)
    return fail_running(key, fits.error());
  if (extent->outputs == 0 || extent->bytes <= plan_bytes_at_once) {
    if (auto planned = plan(running); !planned) return fail_running(key, planned.error());
    if (running.plan.outputs.empty()) return finish(key);
  }
  // Ops wait in line with all other requests for memory, except small ones.
  const bool small =
      running.planned && running.result_bytes <= small_result_bytes_max && running.plan_bytes <= plan_bytes_free;
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
    const auto has_room = [&] {
      return parts_.ledger.has_room({running.user, {}}, Resource::memory, running.plan_bytes);
    };
    if (auto room = parts_.pressure.try_with_spare(running.user, running.plan_bytes, has_room); !room) return room;
    if (auto planned = plan(running); !planned) return fail_running(key, planned.error()), Result<void>();
    if (running.plan.outputs.empty()) return finish(key), Result<void>();
  }
  auto allocated = parts_.pressure.try_quietly([&] { return allocate(running, turn); });
  if (allocated) return go_on_making(key), Result<void>();
  if (first)
    if (auto kept = keep_sizes(running); !kept) return fail_running(key, kept.error()), Result<void>();
  return allocated;
}

Sharing OpRuns::sharing_of(const RunningOp& running) {
  return running.group && running.group->group.settings().open ? Sharing::copy : Sharing::alias;
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
  if (const auto device = running.plan.device; !parts_.outside.lane(device))
    return Error(Code::invalid,
                 running.op->name + " is to be done on " + name(device) + ", and nothing here works there",
                 "give arrays of the host");
  return parts_.ledger.possible({running.user, {}}, Resource::memory, running.plan_bytes + running.result_bytes);
}

/// A plan is the largest thing that an op needs of the heap. If there is no memory for it, only this op fails.
Result<Plan> OpRuns::plan_of(const RunningOp& running) try {
  return make_plan(*running.op, sharing_of(running));
} catch (const std::bad_alloc&) {
  return no_heap();
}

/// Thousands of ops may wait for memory for long. So a large plan is made again later, and not kept.
void OpRuns::put_aside(std::uint64_t key, Admission::WaiterId waiter) {
  RunningOp& waiting = running_.at(key);
  waiting.waiter = waiter;
  waiting.wanted_at = parts_.clients.erased();
  waiting_.push_back(waiting);
  // The loss of its last rank may have completed the op just now.
  std::size_t left = effort_of_turn;
  if (!is_wanted(waiting, left)) return drop_unwanted(waiting);
  if (auto kept = keep_sizes(waiting); !kept) fail_running(key, kept.error());
}

/// Keeps only what a further attempt needs of a large plan, and charges for what is kept.
Result<void> OpRuns::keep_sizes(RunningOp& waiting) {
  if (!waiting.planned) return charge_running(waiting, 0);
  if (waiting.plan_bytes <= plan_bytes_free) return charge_running(waiting, waiting.plan_bytes);
  if (!std::exchange(waiting.put_aside, true)) {
    Plan sizes;
    sizes.outputs.reserve(waiting.plan.outputs.size());
    for (const auto& output : waiting.plan.outputs) sizes.outputs.push_back({{}, output.bytes});
    waiting.plan = std::move(sizes);
  }
  return charge_running(waiting, waiting.plan.outputs.size() * sizeof(PlannedOutput));
}

/// Whether a client is left to be told of the outcome.
bool OpRuns::is_wanted(const RunningOp& running, std::size_t& left) const {
  constexpr std::size_t looks_each = 8;
  const auto& contributions = running.op->contributions;
  const auto wanted = std::ranges::find_if(contributions, [&](const Contribution& contribution) {
    return parts_.works.waiting(contribution.ticket) != nullptr;
  });
  left -= std::min(left, 1 + static_cast<std::size_t>(wanted - contributions.begin()) / looks_each);
  return wanted != contributions.end();
}

bool OpRuns::may_have_unwanted(const RunningList& ops) const {
  return !ops.empty() && ops.front().wanted_at != parts_.clients.erased();
}

/// Drops ops that wait for memory, or are with a lane, while no client is left to be told.
void OpRuns::drop_unwanted() {
  std::size_t left = effort_of_turn;
  drop_unwanted(waiting_, left);
  drop_unwanted(working_, left);
}

/// There may be thousands, so after clients have gone, each is looked at once, a few at a time.
void OpRuns::drop_unwanted(RunningList& ops, std::size_t& left) {
  while (left > 0 && may_have_unwanted(ops)) {
    RunningOp& first = ops.front();
    first.wanted_at = parts_.clients.erased();
    ops.splice(ops.end(), ops, ops.begin());
    if (is_wanted(first, left)) continue;
    left -= std::min(left, effort_of(*first.op));
    drop_unwanted(first);
  }
}

void OpRuns::drop_unwanted(const RunningOp& running) {
  fail_running(running.key, Error(Code::peer_lost, "everybody who took part in the op has gone"));
}

/// Charges for an op that outlives the event that started it.
Result<void> OpRuns::charge_running(RunningOp& running, std::uint64_t beside) {
  constexpr std::uint64_t request_bytes = 512;  // to Admission, or to the lanes
  return parts_.ledger.resize(running.heap, {running.user, {}}, sizeof(RunningOp) + request_bytes + beside);
}

/// Whether only processes that are in the group now get the op's results.
bool OpRuns::all_seated(const GroupState& state, const Op& op) const {
  const auto& seats = state.group.seats();
  return std::all_of(op.contributions.begin(), op.contributions.end(), [&](const Contribution& contribution) {
    const Client* waiting = parts_.works.waiting(contribution.ticket);
    if (!waiting) return true;
    const auto seat = seats.find(contribution.rank);
    return seat != seats.end() && seat->second.client == waiting->id;
  });
}

Result<ResultRegion> OpRuns::result_region(RunningOp& running, std::uint64_t bytes, Turn turn) {
  if (!running.group || !running.group->group.settings().open) return parts_.results.book(running.user, bytes, turn);
  // A rank that has left meanwhile still gets the results of this op, but must not see others. So these results lie
  // apart.
  const bool of_members = all_seated(*running.group, *running.op);
  auto& apart = of_members ? running.group->results[running.user] : running.apart;
  if (!apart) apart = parts_.results.make_apart(running.user);
  return parts_.results.book(apart, bytes, turn);
}

/// Takes memory for all results of the op or for none, and makes the first segments.
Result<void> OpRuns::allocate(RunningOp& running, Turn turn) {
  if (auto could = could_have_room(running); !could) return could;
  auto done = book(running, turn);
  if (done)
    if (auto made = make_some(running); !made) done = made.error();
  if (!done) drop_regions(running);
  return done;
}

/// A quick check whether many results can't fit.
Result<void> OpRuns::could_have_room(const RunningOp& running) {
  constexpr std::size_t few = 8;
  if (running.plan.outputs.size() <= few) return {};
  const std::uint64_t free = parts_.results.free_bytes();
  if (running.result_bytes <= free) return {};
  return parts_.ledger.has_room({running.user, {}}, Resource::memory, running.result_bytes - free);
}

Result<void> OpRuns::book(RunningOp& running, Turn turn) {
  if (running.plan_bytes > plan_bytes_free) {
    auto charge = parts_.pressure.try_with_spare(running.user, running.plan_bytes, [&] {
      return parts_.ledger.charge({running.user, {}}, Resource::memory, running.plan_bytes);
    });
    if (!charge) return charge.error();
    running.plan_charge = std::move(*charge);
  }
  for (const auto& output : running.plan.outputs) {
    if (output.bytes == 0) {
      running.regions.emplace_back();
      continue;
    }
    auto region = parts_.pressure.try_with_spare(running.user, output.bytes,
                                                 [&] { return result_region(running, output.bytes, turn); });
    if (!region) return region.error();
    running.regions.push_back(std::move(*region));
  }
  return {};
}

void OpRuns::drop_regions(RunningOp& running) {
  running.regions_made = 0;
  // The latest go first, so that the numbers of segments that were only booked are used again.
  while (!running.regions.empty()) running.regions.pop_back();
  running.plan_charge.reset();
}

Result<bool> OpRuns::make_some(RunningOp& running) {
  std::size_t left = parts_.settings.segments_of_turn;
  for (auto& made = running.regions_made; made < running.regions.size(); ++made) {
    auto& region = running.regions[made];
    if (!region) continue;
    if (!ResultPool::is_made(region) && left-- == 0) return false;
    if (auto done = parts_.results.make(region); !done) return done.error();
  }
  return true;
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
  if (auto charged = charge_running(running, 0); !charged) fail_running(key, charged.error());
}

void OpRuns::make_more() {
  if (being_made_.empty()) return;
  RunningOp& first = being_made_.front();
  const std::uint64_t key = first.key;
  try {
    if (auto made = make_some(first); !made) return fail_running(key, made.error());
    go_on_making(key);
  } catch (const std::exception&) {
    fail_running(key, no_heap());
  }
}

/// What may throw for lack of memory comes before any rank is told, so that the op can still fail for all.
void OpRuns::finish(std::uint64_t key) try {
  RunningOp& running = running_.at(key);
  auto outputs = publish(running);
  if (!outputs) return fail_running(key, outputs.error());
  const auto remembered = given_to_remember(running, *outputs);
  auto prepared = giver_.prepare(running, std::move(*outputs));
  if (!prepared) return fail_running(key, prepared.error());
  if (prepared->takes_turns && running.plan_charge.amount() == 0)
    if (auto charged = charge_running(running, running.plan_bytes); !charged) return fail_running(key, charged.error());
  if (auto room = giver_.reserve(running); !room) return fail_running(key, room.error());
  // From here on nothing fails.
  const GroupPtr group = running.group;
  const OpPtr op = running.op;
  if (!remembered.empty()) parts_.history.remember(*group, *op, remembered);
  if (running.group) ++running.group->ops_done, running.group->muster->finished(running.op->id);
  ++parts_.counts.ops_done;
  giver_.give(std::move(*prepared), running_.extract(key));
  if (!remembered.empty()) answer_those_who_called(*group, op->key);
} catch (const std::exception&) {
  fail_running(key, no_heap());
}

/// What each rank gets, or one entry for all; nothing if the op is not to be remembered.
std::vector<Objects> OpRuns::given_to_remember(const RunningOp& running, std::span<const ObjectPtr> outputs) {
  std::vector<Objects> given;
  if (!running.group || !History::wants(*running.group, running.op->contributions.front().kind, running.op->key))
    return given;
  const std::size_t ranks = running.plan.gives_all_the_same() ? 1 : running.op->contributions.size();
  for (std::size_t rank = 0; rank < ranks; ++rank) given.push_back(Giver::given_to(running, rank, outputs));
  return given;
}

/// Answers the calls of an op that came while it ran. If there is no memory for that, they wait for their deadlines.
void OpRuns::answer_those_who_called(const GroupState& state, const std::string& key) noexcept try {
  if (!state.history.contains(key)) return;
  for (const auto& call : state.muster->take_by_key(key)) static_cast<void>(answer_again(state, key, call));
} catch (const std::bad_alloc&) {
  return;
}

bool OpRuns::answer_again(const GroupState& state, const std::string& key, const Contribution& call) noexcept try {
  const auto known = History::find(state, key, call);
  if (!known) return false;
  auto given = *known ? giver_.give_again(call.ticket, (*known)->contributors, (*known)->objects) : (*known).error();
  if (!given) parts_.works.settle_failed(call.ticket, given.error());
  return true;
} catch (const std::exception&) {
  parts_.works.cut_off(call.ticket);
  return true;
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
  parts_.outside.lane(over.plan.device)->cancel(key);
}

void OpRuns::fail(GroupState* state, const Op& op, const Error& error) noexcept {
  ++parts_.counts.ops_failed;
  if (state) ++state->ops_failed;
  for (const auto& contribution : op.contributions) parts_.works.settle_failed(contribution.ticket, error);
}

/// Which user's view the error of an op may show, as all its seats read it. The seats of an open group have no user in
/// common.
std::optional<UserId> OpRuns::seen_by_all(const RunningOp& running) const {
  constexpr UserId nobody = ~UserId{0};
  const bool open = running.group && running.group->group.settings().open;
  return open ? nobody : parts_.clients.view_of(running.user);
}

void OpRuns::give_up_running(std::uint64_t key, const Error& error) noexcept {
  try {
    fail_running(key, parts_.pressure.with_holders(error, seen_by_all(running_.at(key)), parts_.now));
  } catch (const std::exception&) {
    fail_running(key, no_heap());
  }
}

Result<Objects> OpRuns::publish(RunningOp& running) {
  Objects objects;
  for (std::size_t i = 0; i < running.plan.outputs.size(); ++i) {
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
