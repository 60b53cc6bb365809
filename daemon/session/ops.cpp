// From contribution to outcome: what a client seals and contributes, and how a complete muster is planned,
// given memory, run and told.
#include <algorithm>
#include <numeric>
#include <utility>

#include <muster/ipc/text.hpp>
#include <muster/ipc/ring.hpp>

#include "base/assert.hpp"
#include "base/heap_reserve.hpp"
#include "session/node.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;
using ipc::Kind;

namespace {

constexpr Duration timeout_max = std::chrono::hours(24);
/// Finding and checking inputs costs time in proportion to them, and everybody else waits for it.
constexpr std::size_t refs_per_call_max = std::size_t{1} << 16;
constexpr std::size_t leaves_per_call_max = std::size_t{1} << 18;
constexpr std::size_t structure_bytes_per_call_max = std::size_t{8} << 20;

Duration bounded(std::int64_t timeout_ns) {
  return std::clamp<Duration>(Duration(timeout_ns), Duration(0), timeout_max);
}

Input input_of(const ObjectPtr& object) {
  return {object, &object->manifest, {object->addresses.data(), object->addresses.size()}};
}

}  // namespace

void Node::seal(Client& client, std::span<const std::byte> body, TimePoint now) {
  auto seal = ipc::read_seal(body);
  if (!seal) return violated(client.id, seal.error(), now);
  auto made = store_.seal(client.payer(), seal->object, seal->capability, seal->parent, seal->copied_bytes,
                          std::move(seal->manifest), now);
  if (made) return;
  std::vector<std::byte> out;
  ipc::write(ipc::SealFailed{seal->object, pressure_.with_holders(made.error(), clients_.sees_only(client.id), now)},
             out);
  outside_.complete(client.id, ipc::CompletionType::seal_failed, out);
}

void Node::release(Client& client, std::span<const std::byte> body) {
  auto release = ipc::read_release(body);
  if (!release) return violated(client.id, release.error(), now_);
  for (const ObjectId object : release->objects) {
    auto released = store_.release(object, client.id);
    if (released) continue;
    if (ipc::maker_of(object) != client.id) return violated(client.id, released.error(), now_);
    // The seal failed, and the client had not read that yet. Now it needn't know any longer.
    if (store_.held(object, client.payer()).error().code() != Code::object_lost) continue;
    completion_.clear();
    ipc::write(ipc::ObjectGone{object}, completion_);
    outside_.complete(client.id, ipc::CompletionType::object_gone, completion_);
  }
}

Result<Inputs> Node::inputs_of(const Client& client, std::span<const ObjectId> objects) const {
  Result<Inputs> found(std::in_place);
  Inputs& inputs = *found;
  const auto at_most = [](std::size_t amount, const char* of_what, std::size_t max) {
    return Error(Code::invalid, "the inputs are " + std::to_string(amount) + " " + of_what + " in all",
                 "use fewer and larger arrays: one call takes at most " + std::to_string(max));
  };
  if (objects.size() > refs_per_call_max) return at_most(objects.size(), "objects", refs_per_call_max);
  inputs.reserve(objects.size());
  std::size_t leaves = 0;
  std::size_t structure_bytes = 0;
  for (const ObjectId id : objects) {
    auto object = store_.held(id, client.payer());
    if (!object) {
      found = object.error();
      return found;
    }
    leaves += (*object)->manifest.leaves.size();
    structure_bytes += (*object)->manifest.structure.size() + (*object)->manifest.guise.size();
    inputs.push_back(input_of(*object));
  }
  if (leaves > leaves_per_call_max) found = at_most(leaves, "arrays", leaves_per_call_max);
  else if (structure_bytes > structure_bytes_per_call_max)
    found = at_most(structure_bytes, "bytes of names and constants", structure_bytes_per_call_max);
  return found;
}

namespace {

/// What a contribution keeps in the heap until its op is over, and longer than others do.
std::uint64_t heap_of(const ipc::Contribute& contribute, int world_size) {
  std::uint64_t bytes = contribute.objects.size() * sizeof(Input);
  constexpr std::uint64_t sets_of_ranks = 2;  // who has come, and whom an error names
  bytes += contribute.key.size() + sets_of_ranks * static_cast<std::uint64_t>(world_size) / 8;
  constexpr std::uint64_t printed_max = 4;  // times, where it is no text
  if (contribute.fault)
    bytes += sizeof(Error) + printed_max * contribute.fault->message().size() + contribute.fault->hint().size();
  return bytes;
}

std::uint64_t heap_of(const ipc::Combine& combine) {
  return 2 * sizeof(Contribution) * combine.ranks + combine.objects.size() * sizeof(Input);
}

}  // namespace

/// `heap`: what this one takes of it beyond what the smallest does.
Result<Charge> Node::admit(const Client& client, std::uint64_t heap) {
  constexpr std::uint64_t each = in_table(sizeof(Ticket) + sizeof(Pending)) + Muster::pending_bytes();
  if (stopping_) return Error(Code::daemon_unavailable, "the daemon is ending", "start it again: muster start");
  return ledger_.charge(client.payer(), Resource::slots, 1, each + heap);
}

void Node::contribute(Client& client, std::span<const std::byte> body, TimePoint now) {
  auto read = ipc::read_contribute(body);
  if (!read) return violated(client.id, read.error(), now);
  auto seat = client.seats.find(read->seat);
  if (seat == client.seats.end())
    return teller_.fail_work(
        client.id, read->work,
        Error(Code::group_closed, "seat " + std::to_string(read->seat.value) + " is not held by this client",
              "join the group again"));
  if (!ipc::is_text(read->key))
    return teller_.fail_work(client.id, read->work,
                             Error(Code::invalid, "the op's key is no text",
                                   "use UTF-8 without control characters and characters that can't be seen"));
  const GroupPtr state = seat->second.group;
  const int rank = seat->second.rank;
  const bool newcomer = state->group.is_newcomer(read->seat);
  if (!newcomer && read->epoch < state->group.epoch() && read->kind != Kind::reform)
    return teller_.fail_work(client.id, read->work,
                             Error(Code::peer_lost,
                                   "the op belongs to epoch " + std::to_string(read->epoch) + " of group '" +
                                       state->group.settings().name + "', which is over",
                                   "start it again; the epoch is now " + std::to_string(state->group.epoch())));
  Contribution contribution;
  contribution.rank = rank;
  contribution.kind = read->kind;
  contribution.op = read->op;
  contribution.layout = read->layout;
  contribution.root = read->root;
  contribution.tag = read->tag;
  contribution.deadline = now + bounded(read->timeout_ns);
  // What fails from here on takes its place in the order all the same, or the rank's next op would meet this one.
  const std::uint64_t heap = heap_of(*read, state->group.settings().world_size);
  auto charge = admit(client, heap);
  contribution.key = std::move(read->key);
  if (auto inputs = inputs_of(client, *read, charge)) contribution.inputs = std::move(*inputs);
  else contribution.fault = std::make_shared<Error>(inputs.error());
  const auto coming = state->coming.find(rank);
  const bool has_place = !newcomer && coming == state->coming.end();
  if (charge) contribution.charge = std::move(*charge);
  else if (!has_place || !(stopping_ || pay_for_failure(client, state, contribution)))
    return give_up_seat(client, *read, charge.error(), now);
  const Ticket ticket = works_.add({client.id, read->work, read->seat, state, client.process()});
  contribution.ticket = ticket;
  if (has_place) return muster(state, std::move(contribution), now);
  try {
    if (newcomer) watch(*state, contribution.deadline);
    // Behind those of its rank that were called before.
    auto& ops = newcomer ? state->early[rank].ops : coming->second.ops;
    ops.push_back(std::move(contribution));
  } catch (const std::exception&) {
    works_.cut_off(ticket);
  }
}

void Node::muster(const GroupPtr& state, Contribution&& contribution, TimePoint now) {
  const Ticket ticket = contribution.ticket;
  try {
    decide(state, now, [&](auto& actions) {
      const auto op = state->muster->contribute(std::move(contribution), now, actions);
      if (op.op == 0) return;
      works_.at(ticket).op = op;
      watch(*state, state->muster->next_deadline());
    });
  } catch (const std::exception&) {
    // It has not come, so what its rank calls next would be taken for it.
    works_.cut_off(ticket);
  }
}

/// An op that is refused fails, and those who come to it later have to get the same outcome. Where others wait in it
/// they have paid for that. False if neither the client nor its user has room for so much.
bool Node::pay_for_failure(const Client& client, const GroupPtr& state, Contribution& contribution) {
  if (!state->muster->begins_op(contribution)) return true;
  const auto seats = static_cast<std::uint64_t>(state->group.settings().world_size);
  const std::uint64_t heap = Muster::pending_bytes() + contribution.key.size() + seats / 4;
  for (const Payer payer : {client.payer(), Payer{client.credentials.user, {}}}) {
    auto charge = ledger_.charge(payer, Resource::heap, heap);
    if (!charge) continue;
    contribution.charge = std::move(*charge);
    return true;
  }
  return false;
}

/// An op that nobody can be charged for has no place, not even as a failed one, and a newcomer's can't wait for its
/// turn to fail. So the rank gives its own place up.
void Node::give_up_seat(Client& client, const ipc::Contribute& contribute, const Error& error, TimePoint now) {
  teller_.fail_work(client.id, contribute.work,
                    Error(error.code(), error.message() + "; the rank has lost its seat, as its op could have no place",
                          error.hint()));
  static_cast<void>(leave(client, contribute.seat,
                          {"started more ops than the daemon has memory for", clients_.process_text(client)}, now));
}

/// What the rank gives to the op, or why it can't.
Result<Inputs> Node::inputs_of(const Client& client, const ipc::Contribute& contribute,
                               const Result<Charge>& charge) const {
  if (!charge) return charge.error();
  if (!contribute.fault) return inputs_of(client, contribute.objects);
  return Error(contribute.fault->code(), ipc::printable(contribute.fault->message()));
}

void Node::combine(Client& client, std::span<const std::byte> body, TimePoint now) {
  auto read = ipc::read_combine(body);
  if (!read) return violated(client.id, read.error(), now);
  const bool one_input = read->kind == Kind::broadcast || read->kind == Kind::scatter;
  const std::size_t givers = one_input ? 1 : read->ranks;
  if (read->ranks < 1 || read->objects.size() % givers != 0 || read->objects.empty())
    return teller_.fail_work(
        client.id, read->work,
        Error(Code::invalid,
              std::to_string(read->objects.size()) + " refs for " + std::to_string(read->ranks) + " ranks",
              "give the same number of refs for each rank"));
  if (read->ranks > static_cast<std::uint32_t>(world_size_max))
    return teller_.fail_work(client.id, read->work,
                             Error(Code::invalid, "refs for " + std::to_string(read->ranks) + " ranks",
                                   "use at most " + std::to_string(world_size_max)));
  auto charge = admit(client, heap_of(*read));
  if (!charge) return teller_.fail_work(client.id, read->work, charge.error());
  auto inputs = inputs_of(client, read->objects);
  if (!inputs) return teller_.fail_work(client.id, read->work, inputs.error());

  Ticket ticket = nobodys_ticket;
  std::vector<Action> actions;
  try {
    ticket = works_.add({client.id, read->work, {}, nullptr, client.process()});
    actions = muster_refs(*read, std::move(*inputs), ticket, std::move(*charge), now);
  } catch (const std::bad_alloc&) {
    works_.erase(ticket);
    return teller_.fail_work(client.id, read->work, no_heap());
  }
  for (auto& action : actions) {
    if (auto* start_op = std::get_if<StartOp>(&action)) runs_.start(nullptr, start_op->op, client.credentials.user);
    if (auto* fail = std::get_if<FailOp>(&action)) {
      ++counts_.ops_failed;
      works_.settle_failed(ticket, fail->error);
    }
  }
  // Whatever can't be complete (a root out of range, say) ends here, too.
  if (!actions.empty()) return;
  ++counts_.ops_failed;
  works_.settle_failed(ticket, Error(Code::invalid, "root " + std::to_string(read->root) + " of " +
                                                        std::to_string(read->ranks) + " ranks"));
}

/// All contributions of one process, which owes nobody anything before they are complete.
std::vector<Action> Node::muster_refs(const ipc::Combine& combine, Inputs inputs, Ticket ticket, Charge charge,
                                      TimePoint now) {
  std::vector<int> members(combine.ranks);
  std::iota(members.begin(), members.end(), 0);
  Muster muster(static_cast<int>(combine.ranks), members, muster_limits());
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

void Node::perform(const GroupPtr& state, std::span<Action> actions, TimePoint now) noexcept {
  for (auto& action : actions) {
    if (auto* start_op = std::get_if<StartOp>(&action)) {
      start(state, start_op->op, now);
    } else {
      const auto& failed = std::get<FailOp>(action);
      ++counts_.ops_failed;
      ++state->ops_failed;
      for (const Ticket ticket : failed.tickets) works_.settle_failed(ticket, failed.error);
    }
  }
}

void Node::start(const GroupPtr& state, const OpPtr& op, TimePoint now) noexcept {
  const Kind kind = op->contributions.front().kind;
  if (kind != Kind::split && kind != Kind::reform) return runs_.start(state, op, payer_of(*state, *op));
  state->muster->finished(op->id);
  try {
    if (kind == Kind::split) split(state, *op);
    else reform(state, *op, now);
  } catch (const std::exception&) {
    runs_.fail(state.get(), *op, no_heap());
  }
}

/// Who contributed; its user, if it has gone since.
Payer Node::payer_of(const Contribution& contribution) const {
  const Pending& pending = works_.at(contribution.ticket);
  const Client* client = clients_.find(pending.client);
  return client ? client->payer() : Payer{pending.process.user, {}};
}

/// Whose memory the results of a group's op take. In an open one: of the user that all who take part belong to, else of
/// the receiver, else of the group's maker. So nobody spends another user's share among his own processes.
UserId Node::payer_of(const GroupState& state, const Op& op) const {
  const UserId maker = state.group.settings().user;
  if (!state.group.settings().open) return maker;
  std::optional<UserId> only;
  bool mixed = false;
  for (const auto& contribution : op.contributions) {
    const Pending* pending = works_.find(contribution.ticket);
    if (!pending) continue;
    const UserId user = pending->process.user;
    if (contribution.kind == Kind::recv) return user;
    mixed |= only.value_or(user) != user;
    only = user;
  }
  return mixed ? maker : only.value_or(maker);
}

}  // namespace musterd
