#include "works.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "seat.hpp"

namespace muster::detail {

namespace {

/// Limits the kept news of seats that this process doesn't know: some of these seats never come, or are gone.
constexpr std::size_t early_changes_max = 1024;

template <class Change>
void apply(const Change& change, SeatState& seat) {
  seat.epoch = change.epoch;
  seat.live.assign(change.live.begin(), change.live.end());
}

}  // namespace

// ---- seats ----

SeatState* Works::find(ipc::SeatId seat) {
  const auto found = seats_.find(seat);
  return found == seats_.end() ? nullptr : &found->second;
}

void Works::seat_taken(ipc::SeatId seat, SeatState state) {
  if (const auto early = early_changes_.extract(seat); !early.empty() && early.mapped().epoch >= state.epoch)
    apply(early.mapped(), state);
  seats_[seat] = std::move(state);
}

bool Works::seat_dropped(ipc::SeatId seat) {
  const auto dropped = seats_.extract(seat);
  return !dropped.empty() && !dropped.mapped().left;
}

void Works::group_changed(const ipc::GroupChanged& change) {
  if (auto* seat = find(change.seat)) return apply(change, *seat);
  if (early_changes_.size() < early_changes_max) early_changes_[change.seat] = change;
}

void Works::reformed(ipc::SeatId seat, const ipc::Done& done) {
  auto* state = find(seat);
  if (!state) return;
  const auto epoch = std::max(state->epoch, done.epoch);
  apply(done, *state);
  state->epoch = epoch;
  state->position = 0;
  state->owes.clear();
}

bool Works::leave(ipc::SeatId seat) {
  auto* state = find(seat);
  return state && !std::exchange(state->left, true);
}

const SeatState& Works::seat(ipc::SeatId seat) const {
  static const SeatState none = [] {
    SeatState left;
    left.left = true;
    return left;
  }();
  const auto found = seats_.find(seat);
  return found == seats_.end() ? none : found->second;
}

std::uint32_t Works::next_subgroup(ipc::SeatId seat, const std::string& ranks) {
  auto* state = find(seat);
  return state && !state->left ? ++state->subgroups[ranks] : 0;
}

void Works::subgroup_failed(ipc::SeatId seat, const std::string& ranks, std::uint32_t number) {
  auto* state = find(seat);
  if (state && state->subgroups[ranks] == number) --state->subgroups[ranks];
}

// ---- ops ----

Works::Taken Works::start(const std::shared_ptr<WorkState>& work, bool matched_by_order, std::uint32_t in_flight_max) {
  if (lost_) return {Place::lost, 0};
  const auto id = work->seat ? work->seat->id : ipc::SeatId{};
  Taken taken;
  if (work->seat) {
    auto* seat = find(id);
    if (!seat || seat->left) return {Place::left, 0};
    if (seat->in_flight >= in_flight_max) return {Place::full, 0};
    ++seat->in_flight;
    if (matched_by_order) ++seat->position;
    taken.epoch = seat->epoch;
  }
  works_.emplace(work->id, InFlight{work, nullptr, id});
  return taken;
}

bool Works::has_room(ipc::SeatId seat, std::uint32_t in_flight_max) const {
  const auto& state = this->seat(seat);
  return lost_ || state.left || state.in_flight < in_flight_max;
}

std::optional<std::uint32_t> Works::forfeit(ipc::SeatId seat, bool matched_by_order) {
  auto* state = find(seat);
  if (!state || state->left) return std::nullopt;
  if (matched_by_order) ++state->position;
  return state->epoch;
}

void Works::not_sent(ipc::WorkId work) {
  const auto found = works_.find(work);
  if (found == works_.end()) return;  // the daemon was lost meanwhile, so the op is over already
  if (auto* seat = find(found->second.seat)) --seat->in_flight;
  works_.erase(found);
}

void Works::over(ipc::WorkId work, Result<Outcome>&& outcome, ipc::Done&& done, Aftermath& aftermath) {
  const auto found = works_.find(work);
  InFlight op;
  if (found != works_.end()) {
    op = std::move(found->second);
    works_.erase(found);
  }
  finish(std::move(op), std::move(outcome), std::move(done), aftermath);
}

void Works::lost(const Error& error, Aftermath& aftermath) {
  lost_ = true;
  for (auto& [id, op] : std::exchange(works_, {})) finish(InFlight(op), error, {}, aftermath);
}

void Works::finish(InFlight&& op, Result<Outcome>&& outcome, ipc::Done&& done, Aftermath& aftermath) {
  if (auto* seat = find(op.seat)) --seat->in_flight;
  auto work = op.work.lock();
  if (!work) {
    if (outcome) aftermath.unwanted.push_back(std::move(*outcome));
    if (done.seat) aftermath.unwanted_seats.push_back(done.seat);
    return;
  }
  if (work->kind == ipc::Kind::split || work->kind == ipc::Kind::reform) work->done = std::move(done);
  work->outcome.emplace(std::move(outcome));
  work->over.store(true, std::memory_order_seq_cst);
  std::move(work->callbacks.begin(), work->callbacks.end(), std::back_inserter(due_));
  work->callbacks.clear();
  aftermath.over.push_back(std::move(work));
}

// ---- calling back ----

bool Works::call_back(const std::shared_ptr<WorkState>& work, Callback& callback) {
  if (work->over.load(std::memory_order_acquire)) return false;
  work->callbacks.push_back(std::move(callback));
  if (const auto found = works_.find(work->id); found != works_.end()) found->second.kept = work;
  return true;
}

}  // namespace muster::detail
