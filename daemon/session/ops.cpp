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

/// Jobs up to this size run on the control thread: handing them to a lane would take longer.
constexpr std::uint64_t inline_work_bytes_max = 256 << 10;
constexpr Duration timeout_max = std::chrono::hours(24);
/// Results up to this size don't wait behind large ones.
constexpr std::uint64_t small_result_bytes_max = 64 << 10;
/// A plan of so many bytes is what an op's slot stands for.
constexpr std::uint64_t plan_bytes_free = 4096;
/// A larger one is made only where there is room for it.
constexpr std::uint64_t plan_bytes_at_once = 64 << 10;
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

ObjectPtr object_of(const Input& input) { return std::static_pointer_cast<const Object>(input.lease); }

/// What it takes to end the op, see Node::effort_of_turn: everybody is told, and all inputs are let go.
std::size_t effort_of(const Op& op) {
  constexpr std::size_t inputs_each = 16;
  std::size_t effort = 1;
  for (const auto& contribution : op.contributions) effort += 1 + contribution.inputs.size() / inputs_each;
  return effort;
}

/// What it takes to run the op once it has its memory, in the same measure: its folds, if they are done here, what is
/// made for its results, and its end.
std::size_t effort_of_running(const Op& op, std::uint64_t work_bytes, std::uint64_t result_bytes) {
  constexpr std::size_t least = 4;
  constexpr std::uint64_t bytes_folded_each = 4 << 10;
  constexpr std::uint64_t bytes_made_each = 32 << 10;
  constexpr std::uint64_t made_max = 256;  // the rest is made in turns of its own
  const std::uint64_t folded = work_bytes <= inline_work_bytes_max ? work_bytes / bytes_folded_each : 0;
  return least + folded + std::min(result_bytes / bytes_made_each, made_max) + effort_of(op);
}

/// What it takes to give one rank so many objects, and to tell it in so many bytes, in the same measure.
std::size_t effort_of_giving(std::size_t objects, std::size_t told_bytes) {
  constexpr std::size_t objects_each = 16;
  constexpr std::size_t bytes_each = 4 << 10;
  return 1 + objects / objects_each + told_bytes / bytes_each;
}

TimePoint deadline_of(const Op& op) {
  return std::min_element(op.contributions.begin(), op.contributions.end(),
                          [](const auto& a, const auto& b) { return a.deadline < b.deadline; })
      ->deadline;
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
    if (auto* start_op = std::get_if<StartOp>(&action)) start(nullptr, start_op->op, client.credentials.user, now);
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
      start(state, start_op->op, payer_of(*state, *start_op->op), now);
    } else {
      const auto& failed = std::get<FailOp>(action);
      ++counts_.ops_failed;
      ++state->ops_failed;
      for (const Ticket ticket : failed.tickets) works_.settle_failed(ticket, failed.error);
    }
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

/// Whatever is thrown, the op then fails on every seat.
void Node::start(const GroupPtr& state, const OpPtr& op, std::uint32_t user, TimePoint now) noexcept {
  MUSTER_ASSERT(!op->contributions.empty(), "an op that starts has contributions");
  const Kind kind = op->contributions.front().kind;
  const bool of_group = state && (kind == Kind::split || kind == Kind::reform);
  if (of_group) state->muster->finished(op->id);
  const std::uint64_t key = ++last_running_;
  try {
    if (!of_group) begin(key, state, op, user, now);
    else if (kind == Kind::split) split(state, *op);
    else reform(state, *op, now);
  } catch (const std::exception&) {
    if (running_.contains(key)) return fail_running(key, no_heap());
    if (state && !of_group) state->muster->finished(op->id);
    fail_op(state.get(), *op, no_heap());
  }
}

void Node::begin(std::uint64_t key, const GroupPtr& state, const OpPtr& op, std::uint32_t user, TimePoint now) {
  Running& running = running_[key];
  running.key = key;
  running.op = op;
  running.group = state;
  running.user = user;
  const auto extent = measure_plan(*op, sharing_of(running));
  if (!extent) return fail_running(key, extent.error());
  running.plan_bytes = extent->bytes;
  if (auto fits = ledger_.possible({user, {}}, Resource::memory, extent->outputs == 0 ? 0 : extent->bytes); !fits)
    return fail_running(key, fits.error());
  if (extent->outputs == 0 || extent->bytes <= plan_bytes_at_once) {
    if (auto planned = plan(running); !planned) return fail_running(key, planned.error());
    if (running.plan.outputs.empty()) return finish(key, now);
  }
  // Ops wait for memory in line with everybody else who does, but for small ones.
  const bool small =
      running.planned && running.result_bytes <= small_result_bytes_max && running.plan_bytes <= plan_bytes_free;
  const auto waiter = admission_.request(
      {user, {}}, small ? Admission::Size::small : Admission::Size::large, deadline_of(*op),
      [this, key](Turn turn) { return attempt(key, turn); },
      [this, key](const Error& error) { give_up_running(key, error); },
      {effort_of_running(*op, running.planned ? running.plan.work_bytes : running.plan_bytes, running.result_bytes),
       effort_of(*op)});
  if (waiter) put_aside(key, *waiter);
}

/// One that fails for another reason than memory is over then, and waits no more.
Result<void> Node::attempt(std::uint64_t key, Turn turn) {
  Running& running = running_.at(key);
  const bool first = !running.planned;
  if (first) {
    if (auto room = ledger_.has_room({running.user, {}}, Resource::memory, running.plan_bytes); !room) return room;
    if (auto planned = plan(running); !planned) return fail_running(key, planned.error()), Result<void>();
    if (running.plan.outputs.empty()) return finish(key, now_), Result<void>();
  }
  auto allocated = pressure_.try_quietly([&] { return allocate(running, turn); });
  if (allocated) return go_on_making(key, now_), Result<void>();
  if (first)
    if (auto kept = keep_sizes(running); !kept) return fail_running(key, kept.error()), Result<void>();
  return allocated;
}

Sharing Node::sharing_of(const Running& running) {
  return running.group && running.group->group.settings().open ? Sharing::copy : Sharing::alias;
}

/// Makes the plan of an op that has none yet, and refuses one whose results can never fit.
Result<void> Node::plan(Running& running) {
  auto plan = plan_of(running);
  if (!plan) return plan.error();
  running.plan = std::move(*plan);
  running.planned = true;
  running.regions.reserve(running.plan.outputs.size());
  running.plan_bytes = running.plan.own_bytes();
  for (const auto& output : running.plan.outputs) running.result_bytes += output.bytes;
  if (running.plan.outputs.empty()) return {};
  return ledger_.possible({running.user, {}}, Resource::memory, running.plan_bytes + running.result_bytes);
}

/// The largest thing that an op asks the heap for; without it the op fails, and nothing else does.
Result<Plan> Node::plan_of(const Running& running) try {
  return make_plan(*running.op, sharing_of(running));
} catch (const std::bad_alloc&) {
  return no_heap();
}

/// Thousands of ops may wait for memory, and for long. A large plan is made again rather than kept by each of them.
void Node::put_aside(std::uint64_t key, Admission::WaiterId waiter) {
  Running& waiting = running_.at(key);
  waiting.waiter = waiter;
  waiting.wanted_at = clients_.erased();
  waiting_ops_.push_back(waiting);
  // The loss of its last rank may just have completed it.
  std::size_t left = effort_of_turn;
  if (!is_wanted(waiting, left)) return drop_unwanted(waiting);
  if (auto kept = keep_sizes(waiting); !kept) fail_running(key, kept.error());
}

/// Of a large plan, only what a further attempt needs. Charges what is kept.
Result<void> Node::keep_sizes(Running& waiting) {
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

/// Whether anybody is left who would be told.
bool Node::is_wanted(const Running& running, std::size_t& left) const {
  constexpr std::size_t looks_each = 8;
  const auto& contributions = running.op->contributions;
  const auto wanted = std::ranges::find_if(
      contributions, [&](const Contribution& contribution) { return works_.waiting(contribution.ticket) != nullptr; });
  left -= std::min(left, 1 + static_cast<std::size_t>(wanted - contributions.begin()) / looks_each);
  return wanted != contributions.end();
}

bool Node::may_have_unwanted_ops() const {
  return !waiting_ops_.empty() && waiting_ops_.front().wanted_at != clients_.erased();
}

/// Those that wait for memory while nobody is left who would be told. Thousands may wait: each is looked at once after
/// clients have gone, a few at a time.
void Node::drop_unwanted_ops() {
  for (std::size_t left = effort_of_turn; left > 0 && may_have_unwanted_ops();) {
    Running& first = waiting_ops_.front();
    first.wanted_at = clients_.erased();
    waiting_ops_.splice(waiting_ops_.end(), waiting_ops_, waiting_ops_.begin());
    if (is_wanted(first, left)) continue;
    left -= std::min(left, effort_of(*first.op));
    drop_unwanted(first);
  }
}

void Node::drop_unwanted(const Running& running) {
  fail_running(running.key, Error(Code::peer_lost, "everybody who took part in the op has gone"));
}

/// Only for ops that outlive the event that started them.
Result<void> Node::charge_running(Running& running, std::uint64_t beside) {
  constexpr std::uint64_t request_bytes = 512;  // to Admission, or to the lanes
  return ledger_.resize(running.heap, {running.user, {}}, sizeof(Running) + request_bytes + beside);
}

/// Whether nobody gets its results but processes that are in the group now.
bool Node::all_seated(const GroupState& state, const Op& op) const {
  const auto& seats = state.group.seats();
  return std::all_of(op.contributions.begin(), op.contributions.end(), [&](const Contribution& contribution) {
    const Client* waiting = works_.waiting(contribution.ticket);
    if (!waiting) return true;
    const auto seat = seats.find(contribution.rank);
    return seat != seats.end() && seat->second.client == waiting->id;
  });
}

Result<ResultRegion> Node::result_region(Running& running, std::uint64_t bytes, Turn turn) {
  if (!running.group || !running.group->group.settings().open) return results_.book(running.user, bytes, turn);
  // A rank that has left since still gets what it contributed to, and nothing that lies beside it.
  const bool of_members = all_seated(*running.group, *running.op);
  auto& apart = of_members ? running.group->results[running.user] : running.apart;
  if (!apart) apart = results_.make_apart(running.user);
  return results_.book(apart, bytes, turn);
}

/// Memory for all its results or for none of them, with the first segments made.
Result<void> Node::allocate(Running& running, Turn turn) {
  if (auto could = could_have_room(running); !could) return could;
  auto done = book(running, turn);
  if (done)
    if (auto made = make_some(running); !made) done = made.error();
  if (!done) drop_regions(running);
  return done;
}

/// Of many results it is known in no time that they can't fit.
Result<void> Node::could_have_room(const Running& running) {
  constexpr std::size_t few = 8;
  if (running.plan.outputs.size() <= few) return {};
  const std::uint64_t free = results_.free_bytes();
  if (running.result_bytes <= free) return {};
  return ledger_.has_room({running.user, {}}, Resource::memory, running.result_bytes - free);
}

Result<void> Node::book(Running& running, Turn turn) {
  if (running.plan_bytes > plan_bytes_free) {
    auto charge = ledger_.charge({running.user, {}}, Resource::memory, running.plan_bytes);
    if (!charge) return charge.error();
    running.plan_charge = std::move(*charge);
  }
  for (const auto& output : running.plan.outputs) {
    if (output.bytes == 0) {
      running.regions.emplace_back();
      continue;
    }
    auto region = result_region(running, output.bytes, turn);
    if (!region && region.error().code() == Code::out_of_memory && results_.trim() > 0)
      region = result_region(running, output.bytes, turn);
    if (!region) return region.error();
    running.regions.push_back(std::move(*region));
  }
  return {};
}

void Node::drop_regions(Running& running) {
  running.regions_made = 0;
  // The latest first: numbers of segments that were only booked serve again.
  while (!running.regions.empty()) running.regions.pop_back();
  running.plan_charge.reset();
}

Result<bool> Node::make_some(Running& running) {
  std::size_t left = settings_.segments_of_turn;
  for (auto& made = running.regions_made; made < running.regions.size(); ++made) {
    auto& region = running.regions[made];
    if (!region) continue;
    if (!ResultPool::is_made(region) && left-- == 0) return false;
    if (auto done = results_.make(region); !done) return done.error();
  }
  return true;
}

/// It has its memory; the op begins as soon as all of it is there. Hundreds of segments take tens of milliseconds, in
/// which others have their turns.
void Node::go_on_making(std::uint64_t key, TimePoint now) {
  Running& running = running_.at(key);
  running.waiter.reset();
  running.WaitingHook::unlink();
  if (running.regions_made == running.regions.size()) return launch(key, now);
  being_made_.push_back(running);
  if (auto charged = charge_running(running, 0); !charged) fail_running(key, charged.error());
}

void Node::make_more(TimePoint now) {
  if (being_made_.empty()) return;
  Running& first = being_made_.front();
  const std::uint64_t key = first.key;
  try {
    if (auto made = make_some(first); !made) return fail_running(key, made.error());
    go_on_making(key, now);
  } catch (const std::exception&) {
    fail_running(key, no_heap());
  }
}

void Node::launch(std::uint64_t key, TimePoint now) {
  Running& running = running_.at(key);
  if (std::exchange(running.put_aside, false)) {
    auto plan = plan_of(running);
    if (!plan) return fail_running(key, plan.error());
    running.plan = std::move(*plan);
  }
  Job job;
  job.work = std::move(running.plan.work);
  for (const auto& region : running.regions) job.outputs.push_back(region.data());
  counts_.bytes_reduced += running.plan.work_bytes;
  const std::uint64_t bytes = running.plan.work_bytes;
  if (bytes == 0 || (bytes <= inline_work_bytes_max && !reads_slowly(*running.op, now))) {
    if (outside_.run_inline(job) > FoldWatch::long_min) mark_slow(*running.op, now);
    return finish(key, now);
  }
  if (auto charged = charge_running(running, 0); !charged) return fail_running(key, charged.error());
  job.process = process_of(*running.op);
  const auto lease = std::make_shared<OpPtr>(running.op);
  job.lease = lease;
  job.done = [this, key, lease] { finish_from_lane(key, *lease); };
  outside_.run(std::move(job));
}

bool Node::reads_slowly(const Op& op, TimePoint now) {
  if (slow_folds_.empty()) return false;
  slow_folds_.forget(now);
  return std::any_of(op.contributions.begin(), op.contributions.end(), [&](const Contribution& contribution) {
    const Pending* pending = works_.find(contribution.ticket);
    return pending && slow_folds_.holds_off(pending->process);
  });
}

/// Any of those whose arrays were read may be the reason.
void Node::mark_slow(const Op& op, TimePoint now) {
  for (const auto& contribution : op.contributions)
    if (const Pending* pending = works_.find(contribution.ticket)) slow_folds_.mark(pending->process, now);
}

/// Whose turns an op takes on the lanes. All ranks have a part in a group's op; the lowest one's process stands for
/// them, so that a group's ops stay in order, and many ranks get no more of the lanes than a process alone.
const Process& Node::process_of(const Op& op) const { return works_.at(op.contributions.front().ticket).process; }

void Node::finish_from_lane(std::uint64_t key, OpPtr& lease) {
  event({}, now_, [&] {
    if (running_.contains(key)) finish(key, now_);
    // What ends with the job ends before those who wait for it are told.
    lease.reset();
  });
}

/// What may find no memory comes before anybody is told: then the op fails for all.
void Node::finish(std::uint64_t key, TimePoint now) try {
  Running& running = running_.at(key);
  GivingNode giving(1);
  auto outputs = publish(running, now);
  if (!outputs) return fail_running(key, outputs.error());
  giving.front().outputs = std::move(*outputs);
  auto first = given_to(running, 0, giving.front().outputs);
  if (auto described = describe_outcome(running.op->contributions.size(), first); !described)
    return fail_running(key, described.error());
  const bool takes_turns = count_told(running) * effort_of_giving(first.size(), outcome_.size()) > effort_of_turn;
  if (takes_turns && running.plan_charge.amount() == 0)
    if (auto charged = charge_running(running, running.plan_bytes); !charged) return fail_running(key, charged.error());
  if (auto room = reserve_holds(running); !room) return fail_running(key, room.error());
  // From here on nothing fails.
  if (running.group) ++running.group->ops_done, running.group->muster->finished(running.op->id);
  ++counts_.ops_done;
  giving.front().over = running_.extract(key);
  give(std::move(giving), std::move(first));
} catch (const std::exception&) {
  fail_running(key, no_heap());
}

/// Null if it is gone.
const Client* Node::receiver(const Running& running, std::size_t contributor) const {
  return works_.waiting(running.op->contributions[contributor].ticket);
}

/// All ranks of a group, or the one process that calls a combine.
std::size_t Node::count_told(const Running& running) { return running.group ? running.op->contributions.size() : 1; }

std::size_t Node::count_given(const Running& running, std::size_t contributor) {
  if (running.group) return running.plan.given_to(contributor).size();
  const auto& gives = running.plan.gives;
  return std::accumulate(gives.begin(), gives.end(), std::size_t{0},
                         [](std::size_t sum, const Gives& each) { return sum + each.size(); });
}

/// What the op gives must have room with everybody before anybody is told, or its outcome would not be the same for
/// all.
Result<void> Node::reserve_holds(const Running& running) {
  struct Reserved {
    Node& node;
    const Running& running;
    std::size_t ranks = 0;
    bool kept = false;
    ~Reserved() {
      for (std::size_t i = 0; !kept && i < ranks; ++i)
        if (const Client* client = node.receiver(running, i))
          node.store_.end_reservation(client->id, count_given(running, i));
    }
  } reserved{*this, running};
  for (; reserved.ranks < count_told(running); ++reserved.ranks) {
    const Client* client = receiver(running, reserved.ranks);
    if (!client) continue;
    auto room = store_.reserve(client->payer(), count_given(running, reserved.ranks));
    if (!room) return room.error();
  }
  reserved.kept = true;
  return {};
}

void Node::fail_running(std::uint64_t key, const Error& error) noexcept {
  const auto ended = running_.extract(key);
  if (ended.empty()) return;
  const Running& over = ended.mapped();
  if (over.waiter) admission_.cancel(*over.waiter);
  if (over.group) over.group->muster->finished(over.op->id);
  fail_op(over.group.get(), *over.op, error);
}

void Node::fail_op(GroupState* state, const Op& op, const Error& error) noexcept {
  ++counts_.ops_failed;
  if (state) ++state->ops_failed;
  for (const auto& contribution : op.contributions) works_.settle_failed(contribution.ticket, error);
}

/// What may be told to all seats of an op: those of an open group have no user in common.
std::optional<UserId> Node::seen_by_all(const Running& running) const {
  constexpr UserId nobody = ~UserId{0};
  const bool open = running.group && running.group->group.settings().open;
  return open ? nobody : clients_.view_of(running.user);
}

void Node::give_up_running(std::uint64_t key, const Error& error) noexcept {
  try {
    fail_running(key, pressure_.with_holders(error, seen_by_all(running_.at(key)), now_));
  } catch (const std::exception&) {
    fail_running(key, no_heap());
  }
}

Result<Node::Objects> Node::publish(Running& running, TimePoint now) {
  Objects objects;
  for (std::size_t i = 0; i < running.plan.outputs.size(); ++i) {
    auto manifest = std::move(running.plan.outputs[i].manifest);
    for (auto& leaf : manifest.leaves) {
      if (leaf.bytes() == 0) continue;
      leaf.segment = running.regions[i].segment();
      leaf.offset += running.regions[i].offset();
    }
    auto object = store_.add_result(running.user, outside_.random_capability(), std::move(manifest),
                                    std::move(running.regions[i]), now);
    if (!object) return object.error();
    objects.push_back(std::move(*object));
  }
  return objects;
}

/// To the one process that calls a combine, all that all ranks get; where every rank gets the same, it wants that once.
Node::Objects Node::given_to(const Running& running, std::size_t contributor, std::span<const ObjectPtr> outputs) {
  const auto& contributions = running.op->contributions;
  const auto& gives = running.plan.gives;
  std::span<const Gives> given = gives;
  if (running.group) given = {&running.plan.given_to(contributor), 1};
  Objects objects;
  for (const Gives& each : given)
    for (const auto& one : each)
      objects.push_back(one.is_output ? outputs[one.index]
                                      : object_of(contributions[one.contributor].inputs[one.index]));
  return objects;
}

/// `first`: what the first one gets, which is described already. A thousand ranks may get a thousand objects each: some
/// get them now, and the others in later turns.
void Node::give(GivingNode giving, Objects first) noexcept {
  if (!give_some(giving.front(), std::move(first))) giving_.splice(giving_.end(), giving);
}

void Node::give_more() noexcept {
  if (giving_.empty()) return;
  const auto first = giving_.begin();
  if (give_some(*first)) giving_.erase(first);
  else giving_.splice(giving_.end(), giving_, first);
}

/// True if all have been told. `described`: what the next one gets, if outcome_ says it already.
bool Node::give_some(Giving& giving, std::optional<Objects> described) noexcept {
  const Running& over = giving.over.mapped();
  const auto& contributions = over.op->contributions;
  const std::size_t told = count_told(over);
  // Mostly everybody gets the same, which is then put into words once.
  const bool same = over.plan.gives_all_the_same();
  for (std::size_t left = effort_of_turn; left > 0 && giving.next < told; ++giving.next) {
    const Ticket ticket = contributions[giving.next].ticket;
    try {
      if (!described) {
        Objects objects = given_to(over, giving.next, giving.outputs);
        if (describe_outcome(contributions.size(), objects)) described = std::move(objects);
      }
    } catch (const std::exception&) {
      described.reset();
    }
    if (described) works_.settle_objects(ticket, *described, outcome_);
    else works_.cut_off(ticket);
    left -= std::min(left, described ? effort_of_giving(described->size(), outcome_.size()) : 1);
    if (!same) described.reset();
  }
  return giving.next == told;
}

Result<void> Node::describe_outcome(std::size_t contributors, std::span<const ObjectPtr> objects) {
  // They travel in one record; every rank of the largest group with one object each has room.
  constexpr std::size_t objects_max = 2000;
  if (objects.size() > objects_max)
    return Error(Code::invalid, "an outcome of " + std::to_string(objects.size()) + " objects",
                 "put them into bundles: at most " + std::to_string(objects_max) + " fit in one outcome");
  std::size_t manifest_bytes = 0;
  for (const auto& object : objects) manifest_bytes += ipc::encoded_bytes(object->manifest);
  const bool described = manifest_bytes <= ipc::record_bytes_max / 4;
  outcome_.clear();
  ipc::Done done;
  done.contributors = static_cast<std::uint32_t>(contributors);
  ipc::DoneWriter writer(done, objects.size(), outcome_);
  for (const auto& object : objects)
    writer.item(object->id, object->capability, described ? &object->manifest : nullptr);
  return {};
}

}  // namespace musterd
