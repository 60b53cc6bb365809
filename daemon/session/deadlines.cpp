// What happens when the deadlines of a group's ops pass: which ranks the error names, and what it says about them.
#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "session/group_ops.hpp"
#include "session/turn.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
namespace ipc = muster::ipc;

Whereabouts GroupOps::locate(const GroupState& state, int rank, std::size_t& looks_left) const {
  const auto seat = state.group.holder(rank);
  const Client* holder = seat ? parts_.clients.find(seat->client) : nullptr;
  Whereabouts found;
  if (!holder) {
    found.former = parts_.table.former().find(state.group.settings(), rank, parts_.now);
    return found;
  }
  found.process = parts_.clients.process_text(*holder);
  found.lacks_memory = parts_.admission.why_it_waits(holder->id);
  if (looks_left > 0 && holder->credentials.pid != 0) {
    --looks_left;
    found.stopped = parts_.outside.is_stopped(holder->credentials.pid);
  }
  return found;
}

void GroupOps::expire(TimePoint now) {
  std::size_t left = effort_of_turn;
  std::size_t looks_left = 8;  // how many processes the kernel may be asked about
  for (GroupPtr state; left > 0 && (state = parts_.table.first_due(now));) {
    if (state->settles()) {
      // The group's ops learn of a loss first, which is under way.
      constexpr Duration a_moment = std::chrono::milliseconds(1);
      GroupTable::unwatch(*state);
      parts_.table.watch(*state, now + a_moment);
      continue;
    }
    decide(state, now, [&](auto& actions) {
      state->muster->expire(now, actions, left, [&](int rank) { return locate(*state, rank, looks_left); });
    });
    expire_early(state, now, left);
    // From here on the group is watched for the ops that are left. If it has ended meanwhile, it has none.
    GroupTable::unwatch(*state);
    parts_.table.watch(*state, state->muster->next_deadline());
    for (const auto& [rank, queue] : state->early)
      for (const auto& contribution : queue.ops)
        if (contribution.deadline != TimePoint::max()) parts_.table.watch(*state, contribution.deadline);
  }
}

void GroupOps::expire_early(const GroupPtr& state, TimePoint now, std::size_t& left) {
  if (left == 0) return;
  std::vector<int> members;
  for (const auto& [rank, seat] : state->group.seats()) members.push_back(rank);
  for (auto& [rank, queue] : state->early) {
    for (auto& contribution : queue.ops) {
      if (left == 0) break;
      if (contribution.deadline > now) continue;
      --left;
      expire_early(*state, contribution, members);
    }
    // A reform is not matched by order, so it needs no place in it.
    std::erase_if(queue.ops, [&](const Contribution& contribution) {
      const bool over = contribution.kind == ipc::Kind::reform && parts_.works.at(contribution.ticket).told;
      if (over) parts_.works.erase(contribution.ticket);
      return over;
    });
  }
  std::erase_if(state->early, [](const auto& entry) { return entry.second.ops.empty(); });
}

void GroupOps::expire_early(GroupState& state, Contribution& contribution, const std::vector<int>& members) {
  const Error error(
      Code::timeout,
      fmt::format("rank {} joined group '{}' after a loss and still waits for the other ranks to reform it",
                  contribution.rank, state.group.settings().name),
      "call reform() on every live rank", members);
  // The other ranks get a shorter error without ranks, as the charge of what waits here is small.
  auto fault = std::make_shared<Error>(error.code(), error.message(), error.hint());
  ++parts_.counts.ops_failed;
  ++state.ops_failed;
  auto& pending = parts_.works.at(contribution.ticket);
  if (parts_.clients.find(pending.client)) parts_.teller.fail_work(pending.client, pending.work, error);
  // The op keeps its place in the next epoch. Otherwise the rank's next op would be taken for it.
  pending.told = true;
  contribution.deadline = TimePoint::max();
  contribution.inputs = {};
  contribution.fault = std::move(fault);
}

}  // namespace musterd
