// How a contribution to a group's op takes its place, and what a muster decides.
#include "session/group_ops.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/text.hpp>

#include "base/heap_reserve.hpp"
#include "session/contributions.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;
using ipc::Kind;

namespace {

/// What a contribution takes of the heap until its op is over, beyond what every contribution takes.
std::uint64_t heap_of(const ipc::Contribute& contribute, int world_size) {
  std::uint64_t bytes = contribute.objects.size() * sizeof(Input);
  constexpr std::uint64_t sets_of_ranks = 2;  // the ranks that have come, and those that an error names
  bytes += contribute.key.size() + sets_of_ranks * static_cast<std::uint64_t>(world_size) / 8;
  constexpr std::uint64_t printed_max = 4;  // how much longer a message gets that isn't text
  if (contribute.fault)
    bytes += sizeof(Error) + printed_max * contribute.fault->message().size() + contribute.fault->hint().size();
  return bytes;
}

}  // namespace

GroupOps::GroupOps(Parts parts)
    : parts_(std::move(parts)),
      news_(parts_.clients, parts_.outside),
      undecided_(parts_.event,
                 [this](const Undecided::Item& item, const Decision& decision) { carry_out(item, decision); }) {}

/// The seat that the call is for. An error if it can't take a place in the order of the running epoch or the next.
Result<const Client::Seated*> GroupOps::seat_of(const Client& client, const ipc::Contribute& contribute) {
  const auto seat = client.seats.find(contribute.seat);
  if (seat == client.seats.end())
    return Error(Code::group_closed, "this process is no longer in the group: it called leave(), or lost its rank",
                 "join the group again");
  if (!ipc::is_text(contribute.key))
    return Error(Code::invalid, fmt::format("the op's key '{}' is not valid text", ipc::shortened(contribute.key, 60)),
                 "use UTF-8 without control characters and characters that can't be seen");
  const Group& group = seat->second.group->group;
  if (!group.is_newcomer(contribute.seat) && group.is_over(contribute.epoch) && contribute.kind != Kind::reform)
    return Error(
        Code::peer_lost,
        fmt::format("the op belongs to epoch {} of group '{}', which is over", contribute.epoch, group.settings().name),
        fmt::format("start it again; the epoch is now {}", group.epoch()));
  return &seat->second;
}

void GroupOps::contribute(Client& client, ipc::Contribute&& contribute, TimePoint now) {
  const auto seat = seat_of(client, contribute);
  if (!seat) return parts_.teller.fail_work(client.id, contribute.work, seat.error());
  const GroupPtr state = (*seat)->group;
  const int rank = (*seat)->rank;
  const bool newcomer = state->group.is_newcomer(contribute.seat);
  Contribution contribution;
  contribution.rank = rank;
  contribution.kind = contribute.kind;
  contribution.op = contribute.op;
  contribution.layout = contribute.layout;
  contribution.root = contribute.root;
  contribution.tag = contribute.tag;
  contribution.deadline = now + bounded(contribute.timeout_ns);
  // A call that fails from here on still takes its place in the order. Otherwise the rank's next op would meet this
  // one.
  const std::uint64_t heap = heap_of(contribute, state->group.settings().world_size);
  auto charge = charge_op(parts_.ledger, client, heap, parts_.stopping);
  contribution.key = std::move(contribute.key);
  if (auto inputs = inputs_of(client, contribute, charge)) contribution.inputs = std::move(*inputs);
  else contribution.fault = std::make_shared<Error>(inputs.error());
  const auto coming = state->coming.find(rank);
  const bool has_place = !newcomer && coming == state->coming.end();
  if (charge) contribution.charge = std::move(*charge);
  else if (!has_place || !(parts_.stopping || pay_for_failure(client, state, contribution)))
    return give_up_seat(client, contribute, charge.error(), now);
  const Ticket ticket = parts_.works.add({client.id, contribute.work, contribute.seat, state, client.process()});
  contribution.ticket = ticket;
  if (has_place) return static_cast<void>(muster(state, std::move(contribution), now));
  try {
    if (newcomer) parts_.table.watch(*state, contribution.deadline);
    // It comes behind the rank's earlier calls.
    auto& ops = newcomer ? state->early[rank].ops : coming->second.ops;
    ops.push_back(std::move(contribution));
  } catch (const std::exception&) {
    parts_.works.cut_off(ticket);
  }
}

std::vector<Action> GroupOps::muster(const GroupPtr& state, Contribution&& contribution, TimePoint now) {
  const Ticket ticket = contribution.ticket;
  if (parts_.retries.answer(*state, contribution.key, contribution)) return {};
  try {
    return decide(state, now, [&](auto& actions) {
      const auto op = state->muster->contribute(std::move(contribution), now, actions);
      if (op.op == 0) return;
      parts_.works.at(ticket).op = op;
      parts_.table.watch(*state, state->muster->next_deadline());
    });
  } catch (const std::exception&) {
    // The contribution has not come, so the rank's next call would be taken for it.
    parts_.works.cut_off(ticket);
    return {};
  }
}

/// Charges for the failure of an op that is refused, as ranks that come to it later must get the same outcome. If
/// others wait in the op, they have paid for that already. False if neither the client nor its user has room.
bool GroupOps::pay_for_failure(const Client& client, const GroupPtr& state, Contribution& contribution) {
  if (!state->muster->begins_op(contribution)) return true;
  const auto seats = static_cast<std::uint64_t>(state->group.settings().world_size);
  const std::uint64_t heap = Muster::pending_bytes() + contribution.key.size() + seats / 4;
  for (const Payer payer : {client.payer(), Payer{client.credentials.user, {}}}) {
    auto charge = parts_.ledger.charge(payer, Resource::heap, heap);
    if (!charge) continue;
    contribution.charge = std::move(*charge);
    return true;
  }
  return false;
}

/// An op that nobody can be charged for can't even take a place as a failed one, and a newcomer's op can't wait for its
/// turn to fail. So the rank gives up its seat.
void GroupOps::give_up_seat(Client& client, const ipc::Contribute& contribute, const Error& error, TimePoint now) {
  parts_.teller.fail_work(
      client.id, contribute.work,
      Error(error.code(), error.message() + "; the rank has lost its seat, as there was no room for its op",
            error.hint()));
  static_cast<void>(leave(client, contribute.seat,
                          {"started more ops than the daemon has memory for", parts_.clients.process_text(client)},
                          now));
}

/// The rank's inputs, or why it can't give them.
Result<Inputs> GroupOps::inputs_of(const Client& client, const ipc::Contribute& contribute,
                                   const Result<Charge>& charge) const {
  if (!charge) return charge.error();
  if (!contribute.fault) return find_inputs(parts_.store, client, contribute.objects);
  return Error(contribute.fault->code(), ipc::printable(contribute.fault->message()));
}

void GroupOps::perform(const GroupPtr& state, std::span<Action> actions, TimePoint now) noexcept {
  for (auto& action : actions) {
    if (auto* start_op = std::get_if<StartOp>(&action)) {
      propose(state, start_op->op, now);
    } else {
      const auto& failed = std::get<FailOp>(action);
      ++parts_.counts.ops_failed;
      ++state->ops_failed;
      for (const Ticket ticket : failed.tickets) parts_.works.settle_failed(ticket, failed.error);
    }
  }
}

/// The ranks agree, so this proposes the op. Usually the op begins at once.
void GroupOps::propose(const GroupPtr& state, const OpPtr& op, TimePoint now) noexcept {
  const Proposal proposal{Proposal::About::op, state->group, op->contributions.front().kind, op->id};
  std::optional<Decision> at_once;
  try {
    at_once = undecided_.propose(parts_.outside.decider(), proposal, state, op);
    if (!at_once) return;
  } catch (const std::exception&) {
    // The op was not proposed.
    state->muster->finished(op->id);
    return parts_.runs.fail(state.get(), *op, no_heap());
  }
  carry_out(state, op, *at_once, now);
}

void GroupOps::carry_out(const GroupPtr& state, const OpPtr& op, const Decision& decision, TimePoint now) noexcept {
  const Kind kind = op->contributions.front().kind;
  if (decision.outcome && kind != Kind::split && kind != Kind::reform)
    return parts_.runs.start(state, op, payer_of(*state, *op));
  state->muster->finished(op->id);
  if (!decision.outcome) return parts_.runs.fail(state.get(), *op, decision.outcome.error());
  try {
    if (kind == Kind::split) split(state, *op);
    else reform(state, *op, decision.next_epoch, now);
  } catch (const std::exception&) {
    parts_.runs.fail(state.get(), *op, no_heap());
  }
}

/// Proposes the next epoch: no member is left in the running one, and newcomers wait. May be called again if it throws.
void GroupOps::propose_epoch(const GroupPtr& state, TimePoint now) {
  if (state->epoch_to_end == state->group.epoch()) return;
  const Proposal proposal{Proposal::About::epoch, state->group};
  if (const auto at_once = undecided_.propose(parts_.outside.decider(), proposal, state, nullptr))
    return begin_epoch(state, prepare_epoch(state, at_once->next_epoch, all_gone()), now);
  state->epoch_to_end = state->group.epoch();
}

/// Carries out a decision that came later.
void GroupOps::carry_out(const Undecided::Item& item, const Decision& decision) {
  const auto& [state, op] = item;
  if (!state) return;  // the daemon is ending, and everybody has been told
  if (op) return carry_out(state, op, decision, parts_.now);
  // The newcomers may have gone meanwhile, or a reform may have begun an epoch.
  const std::uint32_t epoch = state->group.epoch();
  if (state->group.empty() || state->epoch_to_end != epoch || decision.next_epoch <= epoch) return;
  begin_epoch(state, prepare_epoch(state, decision.next_epoch, all_gone()), parts_.now);
}

/// The client that contributed, or its user if the client has gone since.
Payer GroupOps::payer_of(const Contribution& contribution) const {
  const Pending& pending = parts_.works.at(contribution.ticket);
  const Client* client = parts_.clients.find(pending.client);
  return client ? client->payer() : Payer{pending.process.user, {}};
}

/// The user whose memory the results of a group's op take. In an open group it is the receiver's user for a recv, else
/// the user that all contributors belong to, else the group's maker. So a user can't spend another user's share on ops
/// among its own processes.
UserId GroupOps::payer_of(const GroupState& state, const Op& op) const {
  const UserId maker = state.group.settings().user;
  if (!state.group.settings().open) return maker;
  std::optional<UserId> only;
  bool mixed = false;
  for (const auto& contribution : op.contributions) {
    const Pending* pending = parts_.works.find(contribution.ticket);
    if (!pending) continue;
    const UserId user = pending->process.user;
    if (contribution.kind == Kind::recv) return user;
    mixed |= only.value_or(user) != user;
    only = user;
  }
  return mixed ? maker : only.value_or(maker);
}

void GroupOps::go_on(TimePoint now) {
  parts_.clients.guarded([&] { lose_more(now); });
  parts_.clients.guarded([&] { settle_more(now); });
  news_.go_on();
  parts_.clients.guarded([&] { undecided_.go_on(); });
}

void GroupOps::stop(const Error& error, TimePoint now) {
  for (const auto& [key, group] : parts_.table.all())
    parts_.clients.guarded([&, &state = group] {
      decide(state, now, [&, &muster = *state->muster](auto& actions) { muster.abort(error, actions); });
    });
  parts_.clients.guarded([&] {
    while (!unsettled_.empty() || !unsettled_groups_.empty()) settle_more(now);
  });
  undecided_.abandon([&](const Undecided::Item& item) {
    if (!item.op) return;
    item.group->muster->finished(item.op->id);
    parts_.runs.fail(item.group.get(), *item.op, error);
  });
}

}  // namespace musterd
