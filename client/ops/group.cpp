// Seats, and the calls that start ops.
#include <muster/group.hpp>
#include <muster/ipc/byte_count.hpp>

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <muster/ipc/failpoint.hpp>

#include "base/bounded_time.hpp"
#include "base/call_deadline.hpp"
#include "core/connection.hpp"
#include "forfeit.hpp"
#include "holds.hpp"
#include "join.hpp"
#include "objects.hpp"
#include "core/requests.hpp"
#include "base/scratch.hpp"
#include "core/protocol/seat.hpp"

namespace muster {

namespace wire = ipc::wire;
using detail::Protocol;
using ipc::Kind;
using std::chrono::steady_clock;

namespace detail {

namespace {

SeatState state_in(const wire::Joined& joined) {
  SeatState state;
  state.epoch = joined.epoch();
  state.position = joined.position();
  if (joined.live()) state.live.assign(joined.live()->begin(), joined.live()->end());
  if (joined.owes())
    for (const auto* owed : *joined.owes())
      state.owes.push_back({owed->sequence(), owed->key() ? owed->key()->str() : "",
                            std::string(ipc::name(static_cast<Kind>(owed->kind())))});
  return state;
}

}  // namespace

Result<Group> join(const std::shared_ptr<Connection>& connection, const std::string& name, int rank,
                   const GroupSettings& settings) {
  const auto timeout_ms = std::chrono::duration_cast<std::chrono::milliseconds>(settings.timeout).count();
  // The timeout is for ops. Even if it is short, the daemon may take a second to seat a rank.
  const CallDeadline deadline(std::max<std::chrono::nanoseconds>(settings.timeout, std::chrono::seconds(1)));
  constexpr auto patience = std::chrono::seconds(30);
  // If an earlier join was given up and its seat is granted late, that seat must not be in the way of this call.
  connection->settle_abandoned(wire::Body_Join, CallDeadline::bound(std::chrono::steady_clock::now() + patience));
  auto packet = ask(*connection, wire::Body_Join, patience, [&](auto& fbb) {
    const auto group = fbb.CreateString(name);
    return wire::CreateJoin(fbb, group, rank, settings.world_size,
                            static_cast<std::uint32_t>(std::clamp<std::int64_t>(timeout_ms, 1, 86'400'000)),
                            static_cast<std::uint8_t>(settings.on_loss), settings.open, settings.history_bytes)
        .Union();
  });
  if (!packet) return packet.error();
  const auto* body = wire::GetFrame(packet->bytes.data())->body_as_Joined();
  if (!body) return Error(Code::failed, "the daemon's answer to Join makes no sense");
  auto seat = std::make_shared<Seat>();
  seat->connection = connection;
  seat->name = name;
  seat->rank = rank;
  seat->world_size = settings.world_size;
  seat->on_loss = settings.on_loss;
  seat->open = settings.open;
  seat->history_bytes = settings.history_bytes;
  seat->timeout = settings.timeout;
  seat->id = {body->seat()};
  connection->locked([&](Protocol& protocol) { protocol.works.seat_taken(seat->id, state_in(*body)); });
  MUSTER_FAILPOINT(joined);
  return Group(std::move(seat));
}

namespace {

thread_local std::uint64_t placed = 0;  // calls that have taken their place

bool is_matched_by_order(const ipc::Contribute& call) {
  return call.key.empty() && call.kind != Kind::send && call.kind != Kind::recv && call.kind != Kind::reform;
}

/// The call has its place. This tells the daemon that it has no input.
void send_forfeit(const Seat& seat, ipc::Contribute call, std::uint32_t epoch, const Error& why) {
  call.work = seat.connection->names().next_work();
  call.seat = seat.id;
  call.epoch = epoch;
  call.timeout_ns = seat.timeout.count();
  if (!detail::check_reduce_op(call.op)) call.op = ReduceOp::sum;
  call.objects = {};
  call.fault = std::make_shared<Error>(why);
  std::vector<std::byte> body;
  ipc::write(call, body);
  seat.connection->submit_soon(ipc::SubmissionType::contribute, std::move(body));
}

}  // namespace

void forfeit(const std::shared_ptr<Seat>& seat, ipc::Contribute call, const Error& why) {
  // A reform is not matched by order, so a rank whose call failed may call it again.
  if (!seat || !seat->connection->alive() || call.kind == Kind::reform || call.key.size() > ipc::key_bytes_max) return;
  const bool by_order = is_matched_by_order(call);
  const auto epoch =
      seat->connection->locked([&](Protocol& protocol) { return protocol.works.forfeit(seat->id, by_order); });
  if (!epoch) return;
  ++placed;
  send_forfeit(*seat, std::move(call), *epoch, why);
}

std::uint64_t calls_of_thread() { return placed; }

}  // namespace detail

namespace {

/// What a collective call needs besides its inputs.
struct Call {
  Kind kind = Kind::barrier;
  ReduceOp op = ReduceOp::sum;
  ipc::Layout layout = ipc::Layout::parts;
  int root = 0;
  std::int64_t tag = 0;
};

Error closed(const detail::Seat& seat) {
  return {Code::group_closed, fmt::format("this process has left group '{}'", seat.name), "join it again"};
}

/// Takes the op's place among those of its seat. Waits while too many of these are in flight; Timeout at the op's
/// deadline. Returns the op's epoch.
Result<std::uint32_t> take_place(const std::shared_ptr<detail::WorkState>& work, bool matched_by_order) {
  using Place = detail::Works::Place;
  const auto& seat = *work->seat;
  auto& connection = *work->connection;
  const auto limit = connection.welcome().in_flight_max;
  const auto has_room = [&] {
    return connection.locked([&](Protocol& protocol) { return protocol.works.has_room(seat.id, limit); });
  };
  for (;;) {
    const auto taken =
        connection.locked([&](Protocol& protocol) { return protocol.works.start(work, matched_by_order, limit); });
    if (taken.place == Place::taken) {
      ++detail::placed;
      return taken.epoch;
    }
    if (taken.place == Place::left) return closed(seat);
    if (taken.place == Place::lost) return connection.end_error();
    if (connection.wait(has_room, work->deadline)) continue;
    if (!connection.alive()) return connection.end_error();
    return Error(Code::timeout,
                 fmt::format("{} ops of group '{}' are in flight and none ended in time", limit, seat.name),
                 "wait for results before starting more ops");
  }
}

/// Refuses what can't work, whatever the other ranks do.
Result<void> check(const Call& call, int world_size, const OpOptions& options) {
  const char* names = nullptr;
  switch (call.kind) {
    case Kind::reduce:
    case Kind::broadcast:
    case Kind::gather:
    case Kind::scatter: names = "root"; break;
    case Kind::send: names = "dst"; break;
    case Kind::recv: names = "src"; break;
    default: break;
  }
  if (names && (call.root < 0 || call.root >= world_size))
    return Error(Code::invalid, fmt::format("{}={} is out of range", names, call.root),
                 fmt::format("the ranks are 0 to {}", world_size - 1));
  if (options.key.size() > ipc::key_bytes_max)
    return Error(Code::invalid, "the op's key has " + ipc::over_text(options.key.size(), ipc::key_bytes_max),
                 "use a shorter one, such as the name of a step and its number");
  if (auto checked = detail::check_timeout(options.timeout); !checked) return checked.error();
  return detail::check_reduce_op(call.op);
}

ipc::Contribute record_of(const Call& call, const OpOptions& options) {
  ipc::Contribute record;
  record.kind = call.kind;
  record.op = call.op;
  record.layout = call.layout;
  record.root = call.root;
  record.tag = call.tag;
  record.key = options.key;
  return record;
}

/// An op that has its place and only has to be sent.
struct Prepared {
  ipc::Contribute record;
  std::shared_ptr<detail::WorkState> work;
};

Result<Prepared> prepare(const std::shared_ptr<detail::Seat>& seat, const Call& call, std::span<const Ref> inputs,
                         const OpOptions& options) {
  if (auto checked = check(call, seat->world_size, options); !checked) return checked.error();
  const auto& connection = seat->connection;
  if (!connection->alive()) return connection->end_error();
  auto objects = detail::objects_of(connection, inputs);
  if (!objects) return objects.error();
  Result<Prepared> prepared(std::in_place);
  auto& [record, work] = *prepared;
  record = record_of(call, options);
  record.objects = std::move(*objects);
  work = std::make_shared<detail::WorkState>();
  work->connection = connection;
  work->seat = seat;
  work->id = connection->names().next_work();
  work->kind = call.kind;
  work->deadline = steady_clock::now() + detail::bounded(options.timeout.value_or(seat->timeout));
  const auto epoch = take_place(work, detail::is_matched_by_order(record));
  if (!epoch) return epoch.error();
  record.work = work->id;
  record.seat = seat->id;
  record.epoch = *epoch;
  record.timeout_ns = std::max<std::int64_t>((work->deadline - steady_clock::now()).count(), 0);
  return prepared;
}

/// Fails the op, so that the other ranks don't wait for an op that this one could not send.
void give_up(const detail::Seat& seat, const ipc::Contribute& record, std::size_t record_bytes, const Error& why) {
  seat.connection->locked([&](Protocol& protocol) { protocol.works.not_sent(record.work); });
  // If it was sent through the socket, it may have arrived although no answer came.
  const bool refused = why.code() != Code::timeout && why.code() != Code::daemon_unavailable;
  if (refused || record_bytes <= ipc::record_bytes_max) detail::send_forfeit(seat, record, record.epoch, why);
}

Result<std::shared_ptr<detail::WorkState>> start(const std::shared_ptr<detail::Seat>& seat, const Call& call,
                                                 std::span<const Ref> inputs, const OpOptions& options) {
  if (!seat) return Error(Code::invalid, "an empty Group has no ranks");
  const detail::CallDeadline bound(options.timeout.value_or(seat->timeout));
  auto prepared = prepare(seat, call, inputs, options);
  if (!prepared) {
    detail::forfeit(seat, record_of(call, options), prepared.error());
    return prepared.error();
  }
  detail::Scratch body;
  ipc::write(prepared->record, *body);
  if (auto sent = seat->connection->submit(ipc::SubmissionType::contribute, *body); !sent) {
    give_up(*seat, prepared->record, (*body).size(), sent.error());
    return sent.error();
  }
  return std::move(prepared->work);
}

Result<Work> start_work(const std::shared_ptr<detail::Seat>& seat, const Call& call, std::span<const Ref> inputs,
                        const OpOptions& options) {
  auto state = start(seat, call, inputs, options);
  if (!state) return state.error();
  return Work(std::move(*state));
}

}  // namespace

const std::string& Group::name() const { return seat_->name; }
int Group::rank() const { return seat_->rank; }
int Group::world_size() const { return seat_->world_size; }

namespace {

template <class Member>
Member of_seat(const detail::Seat& seat, Member detail::SeatState::*member) {
  return seat.connection->locked([&](Protocol& protocol) { return protocol.works.seat(seat.id).*member; });
}

}  // namespace

std::uint32_t Group::epoch() const {
  seat_->connection->poll();
  return of_seat(*seat_, &detail::SeatState::epoch);
}

std::vector<int> Group::live() const {
  seat_->connection->poll();
  return of_seat(*seat_, &detail::SeatState::live);
}

std::vector<OwedOp> Group::owes() const { return of_seat(*seat_, &detail::SeatState::owes); }
std::uint64_t Group::position() const { return of_seat(*seat_, &detail::SeatState::position); }

Result<Work> Group::barrier(OpOptions options) { return start_work(seat_, {.kind = Kind::barrier}, {}, options); }

Result<Work> Group::allreduce(const Ref& input, ReduceOp op, OpOptions options) {
  return start_work(seat_, {.kind = Kind::allreduce, .op = op}, {&input, 1}, options);
}

Result<Work> Group::reduce(const Ref& input, int root, ReduceOp op, OpOptions options) {
  return start_work(seat_, {.kind = Kind::reduce, .op = op, .root = root}, {&input, 1}, options);
}

Result<Work> Group::scan(const Ref& input, ReduceOp op, OpOptions options) {
  return start_work(seat_, {.kind = Kind::scan, .op = op}, {&input, 1}, options);
}

Result<Work> Group::broadcast(const Ref& input, int root, OpOptions options) {
  const auto inputs = seat_ && rank() == root ? std::span(&input, 1) : std::span<const Ref>();
  return start_work(seat_, {.kind = Kind::broadcast, .root = root}, inputs, options);
}

Result<Work> Group::allgather(const Ref& input, bool stack, OpOptions options) {
  return start_work(seat_, {.kind = Kind::allgather, .layout = stack ? ipc::Layout::stack : ipc::Layout::parts},
                    {&input, 1}, options);
}

Result<Work> Group::gather(const Ref& input, int root, OpOptions options) {
  return start_work(seat_, {.kind = Kind::gather, .root = root}, {&input, 1}, options);
}

Result<Work> Group::scatter(std::span<const Ref> inputs, int root, OpOptions options) {
  const auto given = seat_ && rank() == root ? inputs : std::span<const Ref>();
  return start_work(seat_, {.kind = Kind::scatter, .root = root}, given, options);
}

Result<Work> Group::reduce_scatter(std::span<const Ref> inputs, ReduceOp op, OpOptions options) {
  return start_work(seat_, {.kind = Kind::reduce_scatter, .op = op}, inputs, options);
}

Result<Work> Group::all_to_all(std::span<const Ref> inputs, bool concat, OpOptions options) {
  return start_work(seat_, {.kind = Kind::all_to_all, .layout = concat ? ipc::Layout::concat : ipc::Layout::parts},
                    inputs, options);
}

Result<Work> Group::send(const Ref& input, int destination, std::int64_t tag, OpOptions options) {
  return start_work(seat_, {.kind = Kind::send, .root = destination, .tag = tag}, {&input, 1}, options);
}

Result<Work> Group::recv(int source, std::int64_t tag, OpOptions options) {
  return start_work(seat_, {.kind = Kind::recv, .root = source, .tag = tag}, {}, options);
}

Result<Group> Group::split(int color, int key, OpOptions options) {
  auto state = start(seat_, {.kind = Kind::split, .root = color, .tag = key}, {}, options);
  if (!state) return state.error();
  if (auto outcome = Work(*state).wait(); !outcome) return outcome.error();
  const auto& done = (*state)->done;
  if (!done.seat) return Group();
  auto seat = std::make_shared<detail::Seat>();
  seat->connection = seat_->connection;
  seat->name = done.name;
  seat->rank = done.rank;
  seat->world_size = done.world_size;
  seat->on_loss = seat_->on_loss;
  seat->open = seat_->open;
  seat->history_bytes = seat_->history_bytes;
  seat->timeout = seat_->timeout;
  seat->id = done.seat;
  detail::SeatState begins;
  begins.epoch = done.epoch;
  begins.live.assign(done.live.begin(), done.live.end());
  seat->connection->locked([&](Protocol& protocol) { protocol.works.seat_taken(seat->id, std::move(begins)); });
  return Group(std::move(seat));
}

Result<Group> Group::subgroup(std::span<const int> ranks) {
  if (!seat_) return Error(Code::invalid, "an empty Group has no ranks");
  const auto own = std::find(ranks.begin(), ranks.end(), rank());
  if (own == ranks.end())
    return Error(Code::invalid, fmt::format("rank {} is not among the ranks of the subgroup", rank()),
                 "only its members call subgroup()");
  for (const int member : ranks) {
    if (member < 0 || member >= world_size())
      return Error(Code::invalid,
                   fmt::format("rank {} of the subgroup is out of range: world_size is {}", member, world_size()),
                   "ranks run from 0 to world_size - 1", {member});
    if (std::count(ranks.begin(), ranks.end(), member) != 1)
      return Error(Code::invalid, fmt::format("rank {} is named twice in the subgroup", member), "name each rank once",
                   {member});
  }
  const auto members = fmt::format("{}", fmt::join(ranks, ","));
  std::uint32_t epoch = 0;
  const auto number = seat_->connection->locked([&](Protocol& protocol) {
    epoch = protocol.works.seat(seat_->id).epoch;
    return protocol.works.next_subgroup(seat_->id, members);
  });
  if (number == 0) return closed(*seat_);
  const auto child = fmt::format("{}/{}[{}]{}", seat_->name, epoch, members, number);
  auto joined =
      detail::join(seat_->connection, child, static_cast<int>(own - ranks.begin()),
                   {static_cast<int>(ranks.size()), seat_->on_loss, seat_->open, seat_->history_bytes, seat_->timeout});
  if (!joined)
    seat_->connection->locked([&](Protocol& protocol) { protocol.works.subgroup_failed(seat_->id, members, number); });
  return joined;
}

Result<void> Group::reform(OpOptions options) {
  auto state = start(seat_, {.kind = Kind::reform}, {}, options);
  if (!state) return state.error();
  if (auto outcome = Work(*state).wait(); !outcome) return outcome.error();
  seat_->connection->locked([&](Protocol& protocol) { protocol.works.reformed(seat_->id, (*state)->done); });
  return {};
}

Result<void> Group::leave() {
  if (!seat_) return Error(Code::invalid, "an empty Group can't be left");
  if (!seat_->connection->locked([&](Protocol& protocol) { return protocol.works.leave(seat_->id); }))
    return closed(*seat_);
  MUSTER_FAILPOINT(leaving);
  auto packet = detail::ask(*seat_->connection, wire::Body_Leave, std::chrono::seconds(10),
                            [&](auto& fbb) { return wire::CreateLeave(fbb, seat_->id.value).Union(); });
  if (!packet) return packet.error();
  return {};
}

}  // namespace muster
