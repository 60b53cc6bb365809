// From contribution to outcome. losses.cpp says what a loss means.
#include "collective/muster.hpp"

#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <utility>

#include <muster/ipc/text.hpp>

#include "base/assert.hpp"
#include "base/heap_reserve.hpp"
#include "base/make_room.hpp"
#include "collective/agreement.hpp"
#include "collective/op_effort.hpp"

namespace musterd {

using muster::Error;
using muster::ipc::Kind;

namespace {

constexpr int epoch_shift = 32;

bool by_order(const Contribution& contribution) {
  return contribution.key.empty() && !is_pairwise(contribution.kind) && contribution.kind != Kind::reform;
}

/// The sender comes before the receiver, even if they are one rank.
constexpr std::size_t place_in_pair(Kind kind) { return kind == Kind::send ? 0 : 1; }

bool comes_first(const Contribution& a, const Contribution& b) {
  return std::pair(a.rank, a.kind) < std::pair(b.rank, b.kind);
}

/// Moves each contribution only once, as they are large, and moves none before there is memory for all.
std::vector<Contribution> in_rank_order(std::vector<Contribution>& contributions) {
  std::vector<Contribution*> order;
  order.reserve(contributions.size());
  for (auto& contribution : contributions) order.push_back(&contribution);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return comes_first(*a, *b); });
  std::vector<Contribution> sorted;
  sorted.reserve(contributions.size());
  for (auto* contribution : order) sorted.push_back(std::move(*contribution));
  return sorted;
}

std::size_t bytes_of(const Error& error) {
  return sizeof(Error) + error.message().size() + error.hint().size() + error.ranks().size() * sizeof(int);
}

/// Shortens an error to about `bytes_max`: it drops the hint first, then the ranks, then the end of the message.
Error in_short(const Error& error, std::size_t bytes_max) {
  if (bytes_of(error) <= bytes_max) return error;
  Error without_hint(error.code(), error.message(), {}, error.ranks());
  if (bytes_of(without_hint) <= bytes_max) return without_hint;
  const std::size_t message_max = bytes_max - std::min(bytes_max, sizeof(Error));
  return {error.code(), muster::ipc::cut(error.message(), message_max)};
}

void tell(std::vector<Action>& actions, OpId op, Error error, Ticket ticket) {
  actions.emplace_back(std::in_place_type<FailOp>, FailOp{op, std::move(error), {ticket}, 0});
}

}  // namespace

Muster::Muster(int world_size, std::span<const int> members, Limits limits, std::uint32_t epoch)
    : world_size_(world_size),
      limits_(limits),
      next_id_((OpId{epoch} << epoch_shift) + 1),
      ranks_(static_cast<std::size_t>(world_size)),
      expected_(members.size()) {
  for (int rank : members) rank_state(rank).standing = Standing::live;
}

Muster::Handle Muster::contribute(Contribution&& contribution, TimePoint now, std::vector<Action>& actions) {
  MUSTER_ASSERT(standing(contribution.rank) == Standing::live, "only live members contribute");
  forget_dropped();
  Slot* slot = find_or_open(contribution, now, actions);
  if (!slot) return {};
  if (!slot->gathering()) {
    tell(actions, slot->id, outcome(*slot->failure), contribution.ticket);
    arrive(*slot, contribution);
    retire(*slot);
    forget_old_failures();
    return {};
  }
  std::optional<Error> error;
  prepare(*slot, contribution, error);
  arrive(*slot, contribution);
  hasten(*slot, contribution.deadline);
  RankState& giver = rank_state(contribution.rank);
  std::string().swap(contribution.key);  // the match has the key
  slot->op->contributions.push_back(std::move(contribution));
  ++giver.in_flight;
  if (slot->peer == everyone) giver.owed_bytes -= name_bytes(*slot);
  if (!error && slot->awaited > 0) return slot->handle();
  try {
    if (error) fail(*slot, *error, actions);
    else start(*slot, actions);
  } catch (const std::bad_alloc&) {
    hasten(*slot, TimePoint{});
    return slot->handle();
  }
  retire(*slot);
  forget_old_failures();
  return {};
}

/// What may throw for lack of memory comes first. If it throws, the contribution has not come.
void Muster::prepare(Slot& slot, const Contribution& contribution, std::optional<Error>& error) try {
  error = objection(slot, contribution);
  make_room_in(slot.op->contributions);
} catch (const std::bad_alloc&) {
  if (slot.op->contributions.empty()) abandon(slot);
  throw;
}

/// Ends a slot that was opened for a contribution that does not come.
void Muster::abandon(Slot& slot) {
  end_gathering(slot);
  if (!slot.match) return ordered_.pop_back();
  slot.op.reset();
  slot.awaited = 0;
  retire(slot);
}

/// The op's deadline is the earliest of its ranks'.
void Muster::hasten(Slot& slot, TimePoint deadline) {
  if (deadline >= slot.deadline) return;
  by_deadline_.erase(by_deadline_.iterator_to(slot));
  slot.deadline = deadline;
  by_deadline_.insert(slot);
}

std::size_t Muster::place_in(const Match& match, const Contribution& contribution) {
  return match.of == Match::Of::pair ? place_in_pair(contribution.kind) : static_cast<std::size_t>(contribution.rank);
}

PairCall Muster::pair_call(const Slot& slot) {
  const Contribution& came = slot.op->contributions.front();
  return {came.kind == Kind::send, came.rank, came.root, came.tag, quoted_key(slot.match->key)};
}

Muster::Match Muster::match_of(const Contribution& contribution) {
  switch (contribution.kind) {
    case Kind::reform: return {.of = Match::Of::reform, .key = {}};
    case Kind::send: return {Match::Of::pair, contribution.key, contribution.rank, contribution.root, contribution.tag};
    case Kind::recv: return {Match::Of::pair, contribution.key, contribution.root, contribution.rank, contribution.tag};
    default: return {.of = Match::Of::key, .key = contribution.key};
  }
}

Muster::Slot* Muster::find_or_open(const Contribution& contribution, TimePoint now, std::vector<Action>& actions) {
  Slot* slot = nullptr;
  std::uint64_t sequence = 0;
  if (by_order(contribution)) {
    sequence = rank_state(contribution.rank).position;
    if (sequence >= base_) {
      MUSTER_ASSERT(sequence - base_ <= ordered_.size(), "nobody skips an op");
      if (sequence - base_ == ordered_.size()) {
        make_room(actions);
        ordered_.emplace_back().sequence = sequence;
        try {
          open(ordered_.back(), contribution, now);
        } catch (const std::bad_alloc&) {
          ordered_.pop_back();
          throw;
        }
      }
      slot = &ordered_[sequence - base_];
    }
  } else {
    slot = &find_or_open_matched(contribution, now);
  }
  if (slot) catch_up(*slot, actions);
  if (slot && (slot->gathering() || slot->failure)) return slot;
  const OpId id = slot ? slot->id : 0;
  const auto code = slot ? slot->forgotten : code_of_dropped(sequence);
  tell(actions, id, outcome_forgotten(op_name(contribution, sequence), contribution.rank, limits_.history_max, code),
       contribution.ticket);
  if (!slot) {
    ++rank_state(contribution.rank).position;
  } else {
    arrive(*slot, contribution);
    retire(*slot);
  }
  return nullptr;
}

bool Muster::begins_op(const Contribution& contribution) const {
  if (by_order(contribution)) {
    const auto position = rank_state(contribution.rank).position;
    return position >= base_ + ordered_.size();
  }
  const auto found = matches_.find(match_of(contribution));
  if (found == matches_.end()) return true;
  const auto place = place_in(found->first, contribution);
  return std::ranges::all_of(found->second, [&](const Slot& each) { return each.arrived[place]; });
}

Muster::Slot& Muster::find_or_open_matched(const Contribution& contribution, TimePoint now) {
  const auto found = matches_.try_emplace(match_of(contribution)).first;
  auto& [match, slots] = *found;
  const std::size_t place = place_in(match, contribution);
  auto slot = std::find_if(slots.begin(), slots.end(), [&](const Slot& each) { return !each.arrived[place]; });
  if (slot != slots.end()) return *slot;
  std::list<Slot> opened;
  try {
    opened.emplace_back();
    opened.back().match = &match;
    opened.back().arrived.resize(match.of == Match::Of::pair ? 2 : ranks_.size());
    open(opened.back(), contribution, now);
  } catch (const std::bad_alloc&) {
    if (slots.empty()) matches_.erase(found);
    throw;
  }
  slots.splice(slots.end(), opened);
  return slots.back();
}

void Muster::open(Slot& slot, const Contribution& contribution, TimePoint now) {
  slot.since = now;
  slot.deadline = contribution.deadline;
  slot.awaited = count_awaited(slot);
  slot.losses_known = gone_.size();
  if (slot.is(Match::Of::pair)) slot.peer = contribution.root;
  auto op = std::make_shared<Op>();
  op->name = op_name(contribution, slot.sequence);
  op->world_size = world_size_;
  // A small group gets room for all at once. Room for a thousand ranks is made as they come.
  op->contributions.reserve(std::min(slot.awaited, contributions_at_once));
  op->id = slot.id = next_id_++;
  slot.op = std::move(op);
  by_knowledge_.push_back(slot);
  begin_gathering(slot);
}

void Muster::make_room(std::vector<Action>& actions) {
  if (ordered_.size() >= limits_.in_flight_max + limits_.history_max) give_up_oldest(actions);
}

/// Gives up the oldest op that is matched by order. A rank that comes to it later learns its code, and that no more is
/// remembered.
void Muster::give_up_oldest(std::vector<Action>& actions) {
  Slot& oldest = ordered_.front();
  catch_up(oldest, actions);
  if (oldest.gathering()) fail(oldest, too_far_behind(oldest.op->name, missing(oldest), ordered_.size()), actions);
  if (oldest.awaited > 0) keep_code(oldest);
  drop_oldest();
  retire_ordered();
}

/// Keeps the code of a failed op for as long as a rank may come to it. There may be any number of such ops. So only an
/// op whose code differs from the one before has an entry, which its charge pays for.
void Muster::keep_code(Slot& slot) {
  constexpr std::size_t kept_bytes = 96;  // with what the map and malloc add
  const auto code = slot.failure ? slot.failure->error.code() : slot.forgotten;
  if (!dropped_.empty() && dropped_.rbegin()->second.code == code) return;
  const auto kept = dropped_.emplace_hint(dropped_.end(), slot.sequence, Dropped{code, {}});
  slot.charge.keep_heap(kept_bytes);
  kept->second.charge = std::move(slot.charge);
}

muster::Code Muster::code_of_dropped(std::uint64_t sequence) const {
  const auto next = dropped_.upper_bound(sequence);
  MUSTER_ASSERT(next != dropped_.begin(), "codes are kept while somebody may come");
  return std::prev(next)->second.code;
}

/// Forgets some codes that no rank can ask for any more. A contribution adds at most one, and this drops up to two, so
/// that those that a loss leaves behind go, too.
void Muster::forget_dropped() {
  constexpr int at_once = 2;
  if (dropped_.empty()) return;
  const std::uint64_t slowest = slowest_position();
  for (int i = 0; i < at_once && !dropped_.empty(); ++i) {
    const auto next = std::next(dropped_.begin());
    if ((next == dropped_.end() ? base_ : next->first) > slowest) return;
    dropped_.erase(dropped_.begin());
  }
}

/// The smallest position of the ranks that may still come.
std::uint64_t Muster::slowest_position() const {
  auto slowest = std::numeric_limits<std::uint64_t>::max();
  for (const RankState& each : ranks_)
    if (each.standing == Standing::live || each.standing == Standing::vacant)
      slowest = std::min(slowest, each.position);
  return slowest;
}

void Muster::drop_oldest() {
  const Slot& oldest = ordered_.front();
  forget_failure(oldest);
  ordered_.pop_front();
  ++base_;
}

void Muster::arrive(Slot& slot, const Contribution& contribution) {
  MUSTER_ASSERT(slot.awaited > 0, "a slot lives only while somebody may come");
  --slot.awaited;
  if (slot.match) slot.arrived[place_in(*slot.match, contribution)] = true;
  else ++rank_state(contribution.rank).position;
}

std::optional<Error> Muster::objection(const Slot& slot, const Contribution& contribution) const {
  if (slot.must_fail()) return no_heap();
  const auto& [id, name, key, world_size, present] = *slot.op;
  if (present.empty())
    if (auto error = refusal(slot, contribution)) return error;
  if (rank_state(contribution.rank).in_flight >= limits_.in_flight_max)
    return too_many_in_flight(name, contribution.rank, limits_.in_flight_max);
  if (contribution.fault) return no_input(name, contribution.rank, *contribution.fault);
  if (auto error = check_contribution(name, world_size, contribution)) return error;
  if (auto error = check_agreement(name, present, contribution)) return error;
  return check_amount(name, present.size() + 1, contribution);
}

void Muster::start(Slot& slot, std::vector<Action>& actions) {
  make_room_in(actions);
  auto& contributions = slot.op->contributions;
  if (!std::is_sorted(contributions.begin(), contributions.end(), comes_first))
    contributions = in_rank_order(contributions);
  if (slot.is(Match::Of::key)) slot.op->key = slot.match->key;
  end_gathering(slot);
  ++running_;
  actions.emplace_back(std::in_place_type<StartOp>, StartOp{std::exchange(slot.op, nullptr)});
}

/// Fails an op. The outcome is remembered for late ranks, and one of the contributors pays for that.
void Muster::fail(Slot& slot, const Error& error, std::vector<Action>& actions) {
  auto& present = slot.op->contributions;
  std::vector<Ticket> tickets;
  tickets.reserve(present.size());
  for (const Contribution& contribution : present) tickets.push_back(contribution.ticket);
  const auto richest = std::max_element(present.begin(), present.end(), [](const auto& a, const auto& b) {
    return a.charge.all_heap() < b.charge.all_heap();
  });
  const std::size_t paid = richest == present.end() ? 0 : richest->charge.all_heap();
  const std::size_t beside = bytes_beside_error(slot);
  auto failure = std::make_unique<Failure>(with_few_ranks(error));
  if (paid > 0) failure->error = in_short(failure->error, paid - std::min(paid, beside));
  // The contributors get the error that is remembered, so that late ranks get the same.
  FailOp told{slot.id, outcome(*failure), std::move(tickets), effort_of(*slot.op)};
  make_room_in(actions);
  failures_.emplace(slot.id, &slot);
  // Nothing from here on needs memory.
  if (paid > 0) slot.charge = std::move(richest->charge);
  slot.remembered_bytes = beside + bytes_of(failure->error);
  slot.charge.keep_heap(slot.remembered_bytes);
  slot.failure = std::move(failure);
  failures_bytes_ += slot.remembered_bytes;
  end_gathering(slot);
  slot.op.reset();
  actions.emplace_back(std::in_place_type<FailOp>, std::move(told));
}

void Muster::begin_gathering(Slot& slot) {
  ++gathering_;
  by_deadline_.insert(by_deadline_.end(), slot);
  by_handle_.insert(by_handle_.end(), slot);
  const std::size_t bytes = name_bytes(slot);
  if (slot.peer == everyone) nameable_bytes_ += bytes;
  else if (is_rank(slot.peer)) rank_state(slot.peer).owed_bytes += bytes;
}

void Muster::end_gathering(Slot& slot) {
  --gathering_;
  by_deadline_.erase(by_deadline_.iterator_to(slot));
  by_handle_.erase(by_handle_.iterator_to(slot));
  const std::size_t bytes = name_bytes(slot);
  if (slot.peer == everyone) nameable_bytes_ -= bytes;
  else if (is_rank(slot.peer)) rank_state(slot.peer).owed_bytes -= bytes;
  for (const Contribution& contribution : slot.op->contributions) {
    RankState& giver = rank_state(contribution.rank);
    --giver.in_flight;
    if (slot.peer == everyone) giver.owed_bytes += bytes;
  }
}

/// Forgets the slot if it is over and nobody may come to it any more.
void Muster::retire(const Slot& slot) {
  if (slot.gathering() || slot.awaited > 0) return;
  if (!slot.match) return retire_ordered();
  forget_failure(slot);
  auto found = matches_.find(*slot.match);
  found->second.erase(std::ranges::find(found->second, &slot, [](const Slot& each) { return &each; }));
  if (found->second.empty()) matches_.erase(found);
}

void Muster::retire_ordered() {
  while (!ordered_.empty() && !ordered_.front().gathering() && ordered_.front().awaited == 0) drop_oldest();
}

void Muster::forget_old_failures() {
  while (failures_.size() > limits_.history_max || failures_bytes_ > limits_.history_bytes_max) forget_oldest_failure();
}

void Muster::forget_oldest_failure() {
  Slot& slot = *failures_.begin()->second;
  forget_failure(slot);
  slot.forgotten = slot.failure->error.code();
  slot.failure.reset();
  slot.charge.keep_heap(sizeof(Slot));
  if (!slot.match) return;  // the slot keeps its place in the order
  slot.awaited = 0;
  retire(slot);
}

void Muster::forget_failure(const Slot& slot) {
  if (failures_.erase(slot.id) > 0) failures_bytes_ -= slot.remembered_bytes;
}

/// Replaces a long list of ranks by a set, which takes less memory.
Muster::Failure Muster::with_few_ranks(const Error& error) const {
  constexpr std::size_t few = 16;
  const auto& ranks = error.ranks();
  const bool is_set = std::ranges::adjacent_find(ranks, std::greater_equal<>()) == ranks.end();
  if (ranks.size() <= few || !is_set || ranks.front() < 0 || ranks.back() >= world_size_) return {error, {}};
  std::vector<bool> named(ranks_.size());
  for (const int rank : ranks) named[static_cast<std::size_t>(rank)] = true;
  return {{error.code(), error.message(), error.hint()}, std::move(named)};
}

/// The error that ranks get for an op that failed.
Error Muster::outcome(const Failure& failure) {
  const auto& [error, named] = failure;
  if (named.empty()) return error;
  std::vector<int> ranks;
  for (std::size_t rank = 0; rank < named.size(); ++rank)
    if (named[rank]) ranks.push_back(static_cast<int>(rank));
  return {error.code(), error.message(), error.hint(), std::move(ranks)};
}

std::size_t Muster::bytes_beside_error(const Slot& slot) const {
  constexpr std::size_t node_bytes = 96;  // of a map or list, with what malloc adds
  const std::size_t in_matches =
      slot.match ? 2 * node_bytes + sizeof(Match) + slot.match->key.size() + static_cast<std::size_t>(world_size_) / 8
                 : 0;
  return sizeof(Slot) + sizeof(Failure) - sizeof(Error) + 2 * node_bytes + in_matches +
         static_cast<std::size_t>(world_size_) / 8;
}

std::vector<Contribution> Muster::take_by_key(const std::string& key) {
  std::vector<Contribution> taken;
  const auto found = matches_.find({.of = Match::Of::key, .key = key});
  if (found == matches_.end()) return taken;
  auto& slots = found->second;
  std::size_t count = 0;
  for (const Slot& slot : slots) count += slot.gathering() ? slot.op->contributions.size() : 0;
  taken.reserve(count);
  for (auto next = slots.begin(); next != slots.end();) {
    const auto slot = next++;
    if (!slot->gathering()) continue;
    end_gathering(*slot);
    for (Contribution& contribution : slot->op->contributions) taken.push_back(std::move(contribution));
    slots.erase(slot);
  }
  if (slots.empty()) matches_.erase(found);
  return taken;
}

bool Muster::is_own(OpId op) const { return op >> epoch_shift == next_id_ >> epoch_shift; }

void Muster::finished(OpId op) {
  // Ops of an epoch that is over may finish after it.
  if (is_own(op) && running_ > 0) --running_;
}

void Muster::abort(const Error& error, std::vector<Action>& actions) {
  while (!by_deadline_.empty()) fail(*by_deadline_.begin(), error, actions);
  forget_old_failures();
}

std::optional<TimePoint> Muster::next_deadline() const {
  if (by_deadline_.empty()) return std::nullopt;
  return by_deadline_.begin()->deadline;
}

std::set<int> Muster::lost() const {
  std::set<int> ranks;
  for (const auto& [rank, loss] : losses_) ranks.insert(rank);
  return ranks;
}

std::uint64_t Muster::position(int rank) const { return rank_state(rank).position; }

std::vector<int> Muster::missing(Handle handle) const {
  const auto slot = by_handle_.find(handle);
  return slot == by_handle_.end() ? std::vector<int>() : missing(*slot);
}

std::vector<Muster::Owed> Muster::owed(int rank) const {
  std::vector<Owed> ops;
  for (const int peer : {everyone, rank}) {
    for (auto slot = by_handle_.lower_bound(Handle{peer, 0}); slot != by_handle_.end() && slot->peer == peer; ++slot) {
      if (owes(*slot, rank) == 0) continue;
      const Contribution& first = slot->op->contributions.front();
      Kind kind = first.kind;
      if (slot->is(Match::Of::pair)) kind = first.kind == Kind::send ? Kind::recv : Kind::send;
      ops.push_back({slot->sequence, slot->match ? slot->match->key : std::string(), kind});
    }
  }
  return ops;
}

std::size_t Muster::owed_bytes(int rank) const { return nameable_bytes_ + rank_state(rank).owed_bytes; }

std::size_t Muster::name_bytes(const Slot& slot) {
  constexpr std::size_t each = 48;  // beside its key
  return each + (slot.match ? slot.match->key.size() : 0);
}

Muster::RankState& Muster::rank_state(int rank) { return ranks_[static_cast<std::size_t>(rank)]; }
const Muster::RankState& Muster::rank_state(int rank) const { return ranks_[static_cast<std::size_t>(rank)]; }

Muster::Standing Muster::standing(int rank) const {
  return is_rank(rank) ? rank_state(rank).standing : Standing::absent;
}

}  // namespace musterd
