#include "session/op_memory.hpp"

#include <algorithm>
#include <utility>

namespace musterd {

using muster::Result;

Amounts bytes_needed(const Plan& plan) {
  Amounts needed;
  for (const auto& output : plan.outputs) needed[memory_of(output.device)] += output.bytes;
  return needed;
}

Result<void> OpMemory::has_room_for_plan(const RunningOp& running) {
  return parts_.pressure.try_with_spare(running.user, running.plan_bytes, [&] {
    return parts_.ledger.has_room({running.user, {}}, Resource::memory, running.plan_bytes);
  });
}

Result<void> OpMemory::take(RunningOp& running, Turn turn) {
  if (auto could = could_have_room(running); !could) return could;
  auto done = book(running, turn);
  if (done)
    if (auto made = make_some(running); !made) done = made.error();
  if (!done) drop_regions(running);
  return done;
}

/// A quick check whether many results can't fit.
Result<void> OpMemory::could_have_room(RunningOp& running) const {
  constexpr std::size_t few = 8;
  if (running.plan.outputs.size() <= few) return {};
  const Amounts needed = bytes_needed(running.plan);
  for (const auto device : running.plan.devices) {
    running.lacks = memory_of(device);
    const std::uint64_t free = parts_.results.free_bytes(running.lacks);
    if (needed[running.lacks] <= free) continue;
    const std::uint64_t missing = needed[running.lacks] - free;
    const auto has_room = [&] { return parts_.ledger.has_room({running.user, {}}, running.lacks, missing); };
    if (auto room = parts_.pressure.try_with_spare(running.user, missing, has_room); !room) return room;
  }
  return {};
}

Result<void> OpMemory::book(RunningOp& running, Turn turn) {
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
    running.lacks = memory_of(output.device);
    auto region = parts_.pressure.try_with_spare(running.user, output.bytes,
                                                 [&] { return result_region(running, output, turn); });
    if (!region) return region.error();
    running.regions.push_back(std::move(*region));
  }
  return {};
}

Result<ResultRegion> OpMemory::result_region(RunningOp& running, const PlannedOutput& output, Turn turn) {
  const ResultOwner owner(running.user, output.device);
  if (!running.group || !running.group->group.settings().open) return parts_.results.book(owner, output.bytes, turn);
  // A rank that has left meanwhile still gets the results of this op, but must not see others. So these results lie
  // apart.
  const bool of_members = all_seated(*running.group, *running.op);
  auto& apart = of_members ? running.group->results[{running.user, memory_of(owner.device)}] : running.apart;
  if (!apart) apart = parts_.results.make_apart(owner);
  return parts_.results.book(apart, output.bytes, turn);
}

/// Whether only processes that are in the group now get the op's results.
bool OpMemory::all_seated(const GroupState& state, const Op& op) const {
  const auto& seats = state.group.seats();
  return std::all_of(op.contributions.begin(), op.contributions.end(), [&](const Contribution& contribution) {
    const Client* waiting = parts_.works.waiting(contribution.ticket);
    if (!waiting) return true;
    const auto seat = seats.find(contribution.rank);
    return seat != seats.end() && seat->second.client == waiting->id;
  });
}

void OpMemory::drop_regions(RunningOp& running) {
  running.regions_made = 0;
  // The latest go first, so that the numbers of segments that were only booked are used again.
  while (!running.regions.empty()) running.regions.pop_back();
  running.plan_charge.reset();
}

Result<bool> OpMemory::make_some(RunningOp& running) {
  std::size_t left = parts_.segments_of_turn;
  for (auto& made = running.regions_made; made < running.regions.size(); ++made) {
    auto& region = running.regions[made];
    if (!region) continue;
    if (!ResultPool::is_made(region) && left-- == 0) return false;
    if (auto done = parts_.results.make(region); !done) return done.error();
  }
  return true;
}

Result<void> OpMemory::charge(RunningOp& running, std::uint64_t beside) {
  constexpr std::uint64_t request_bytes = 512;  // to Admission, or to the lanes
  return parts_.ledger.resize(running.heap, {running.user, {}}, sizeof(RunningOp) + request_bytes + beside);
}

Result<void> OpMemory::keep_sizes(RunningOp& waiting) {
  if (!waiting.planned) return charge(waiting, 0);
  if (waiting.plan_bytes <= plan_bytes_free) return charge(waiting, waiting.plan_bytes);
  if (!std::exchange(waiting.put_aside, true)) {
    Plan sizes;
    sizes.devices = waiting.plan.devices;
    sizes.outputs.reserve(waiting.plan.outputs.size());
    for (const auto& output : waiting.plan.outputs) sizes.outputs.push_back({{}, output.bytes, output.device});
    waiting.plan = std::move(sizes);
  }
  return charge(waiting, waiting.plan.outputs.size() * sizeof(PlannedOutput));
}

}  // namespace musterd
