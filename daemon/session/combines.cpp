#include "session/combines.hpp"

#include <exception>
#include <iterator>
#include <numeric>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "base/heap_reserve.hpp"
#include "session/contributions.hpp"
#include "session/node_settings.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;
using ipc::Kind;

namespace {

std::uint64_t heap_of(const ipc::Combine& combine) {
  return 2 * sizeof(Contribution) * combine.ranks + combine.objects.size() * sizeof(Input);
}

}  // namespace

Result<void> Combines::check_counts(const ipc::Combine& combine) {
  const bool one_input = combine.kind == Kind::broadcast || combine.kind == Kind::scatter;
  const std::size_t givers = one_input ? 1 : combine.ranks;
  if (combine.ranks < 1 || combine.objects.size() % givers != 0 || combine.objects.empty())
    return Error(Code::invalid, fmt::format("{} refs were given for {} ranks", combine.objects.size(), combine.ranks),
                 "give the same number of refs for each rank");
  if (combine.ranks > static_cast<std::uint32_t>(world_size_max))
    return Error(Code::invalid, fmt::format("refs were given for {} ranks", combine.ranks),
                 fmt::format("use at most {}", world_size_max));
  return {};
}

void Combines::start(const Client& client, const ipc::Combine& combine, TimePoint now) {
  if (auto counts = check_counts(combine); !counts)
    return parts_.teller.fail_work(client.id, combine.work, counts.error());
  auto charge = charge_op(parts_.ledger, client, heap_of(combine), parts_.stopping);
  if (!charge) return parts_.teller.fail_work(client.id, combine.work, charge.error());
  auto inputs = find_inputs(parts_.store, client, combine.objects);
  if (!inputs) return parts_.teller.fail_work(client.id, combine.work, inputs.error());

  Ticket ticket = nobodys_ticket;
  std::vector<Action> actions;
  try {
    ticket = parts_.works.add({client.id, combine.work, {}, nullptr, client.process()});
    actions = muster_refs(combine, std::move(*inputs), ticket, std::move(*charge), now);
    // A muster that can't be complete (its root may be out of range) ends here, too.
    if (actions.empty())
      actions.emplace_back(FailOp{
          0,
          Error(Code::invalid, fmt::format("root {} is not one of the ranks 0..{}", combine.root, combine.ranks - 1),
                "give the index of one of the refs"),
          {},
          0});
  } catch (const std::exception&) {
    parts_.works.erase(ticket);
    return parts_.teller.fail_work(client.id, combine.work, no_heap());
  }
  for (auto& action : actions) {
    if (auto* start_op = std::get_if<StartOp>(&action))
      parts_.runs.start(nullptr, start_op->op, client.credentials.user);
    if (auto* fail = std::get_if<FailOp>(&action)) {
      ++parts_.counts.ops_failed;
      parts_.works.settle_failed(ticket, fail->error);
    }
  }
}

/// Makes the contributions of all ranks, which come from one process. No other process waits for them.
std::vector<Action> Combines::muster_refs(const ipc::Combine& combine, Inputs inputs, Ticket ticket, Charge charge,
                                          TimePoint now) {
  std::vector<int> members(combine.ranks);
  std::iota(members.begin(), members.end(), 0);
  Muster muster(static_cast<int>(combine.ranks), members, parts_.muster_limits);
  const bool one_input = combine.kind == Kind::broadcast || combine.kind == Kind::scatter;
  const std::size_t each = combine.objects.size() / (one_input ? 1 : combine.ranks);
  std::vector<Action> actions;
  auto next = std::make_move_iterator(inputs.begin());
  for (std::uint32_t rank = 0; rank < combine.ranks; ++rank) {
    Contribution contribution;
    contribution.rank = static_cast<int>(rank);
    contribution.kind = combine.kind;
    contribution.op = combine.op;
    contribution.layout = combine.layout;
    contribution.root = combine.root;
    contribution.deadline = now + bounded(combine.timeout_ns);
    contribution.ticket = rank == 0 ? ticket : nobodys_ticket;
    contribution.charge = std::exchange(charge, {});
    if (!one_input || contribution.rank == combine.root) {
      contribution.inputs.assign(next, next + static_cast<std::ptrdiff_t>(each));
      next += static_cast<std::ptrdiff_t>(each);
    }
    muster.contribute(std::move(contribution), now, actions);
  }
  return actions;
}

}  // namespace musterd
