#include "cluster/group.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "base/assert.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

namespace {

std::vector<int> all_ranks(int world_size) {
  std::vector<int> ranks(static_cast<std::size_t>(world_size));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

std::optional<int> rank_of(const std::map<int, Seat>& seats, SeatId id) {
  for (const auto& [rank, seat] : seats)
    if (seat.id == id) return rank;
  return std::nullopt;
}

}  // namespace

Group::Group(Settings settings) : settings_(std::move(settings)), members_(all_ranks(settings_.world_size)) {}

Result<void> Group::check_settings(const Settings& settings, int rank) const {
  const auto where = fmt::format("rank {} of group '{}'", rank, settings_.name);
  if (settings.world_size != settings_.world_size)
    return Error(
        Code::invalid,
        fmt::format("{} joined with world_size {}, the group has {}", where, settings.world_size, settings_.world_size),
        "start every rank with the same world_size, or use another group name", {rank});
  if (settings.on_loss != settings_.on_loss)
    return Error(Code::invalid,
                 fmt::format("{} joined with on_loss='{}', the group has '{}'", where, name(settings.on_loss),
                             name(settings_.on_loss)),
                 "start every rank with the same on_loss", {rank});
  if (settings.open != settings_.open)
    return Error(Code::invalid,
                 fmt::format("{} joined with open={}, the group has open={}", where, settings.open ? "True" : "False",
                             settings_.open ? "True" : "False"),
                 "start every rank with the same open=", {rank});
  if (settings.history_bytes != settings_.history_bytes)
    return Error(Code::invalid,
                 fmt::format("{} joined with history={} bytes, the group has {}", where, settings.history_bytes,
                             settings_.history_bytes),
                 "start every rank with the same history=", {rank});
  if (rank < 0 || rank >= settings_.world_size)
    return Error(Code::invalid, fmt::format("{} is out of range: world_size is {}", where, settings_.world_size),
                 "ranks run from 0 to world_size - 1");
  return {};
}

std::optional<Seat> Group::holder(int rank) const {
  for (const auto* seats : {&seats_, &newcomers_})
    if (const auto found = seats->find(rank); found != seats->end()) return found->second;
  return std::nullopt;
}

Result<Group::Joined> Group::join(const Settings& settings, Seat seat) {
  if (auto checked = check_settings(settings, seat.rank); !checked) return checked.error();
  const auto taken = [&](const char* what) {
    return Error(Code::invalid, fmt::format("rank {} of group '{}' is {}", seat.rank, settings_.name, what),
                 "give every process a rank of its own, or leave() the group first", {seat.rank});
  };
  if (seats_.contains(seat.rank)) return taken("held by a live process");
  const bool was_lost = lost_.contains(seat.rank);
  if (is_member(seat.rank) && !was_lost) {
    seats_.emplace(seat.rank, seat);
    return Joined::member;
  }
  if (was_lost && settings_.on_loss == muster::OnLoss::wait) {
    lost_.erase(seat.rank);
    seats_.emplace(seat.rank, seat);
    return Joined::replacement;
  }
  if (epoch_ >= epoch_max)
    return Error(Code::quota_exceeded, fmt::format("group '{}' has had {} epochs", settings_.name, epoch_max),
                 "use another group name", {seat.rank});
  if (!newcomers_.emplace(seat.rank, seat).second) return taken("taken by another newcomer that waits for a reform");
  return Joined::newcomer;
}

Group::Lost Group::lose(SeatId seat) {
  if (auto rank = rank_of(newcomers_, seat)) {
    newcomers_.erase(*rank);
    return Lost::newcomer;
  }
  if (auto rank = rank_of(seats_, seat)) {
    lost_.insert(*rank);  // this may throw for lack of memory
    seats_.erase(*rank);
  }
  return seats_.empty() ? Lost::last : Lost::member;
}

std::vector<int> Group::next_members() const {
  if (seats_.empty()) return all_ranks(settings_.world_size);
  auto members = live();
  for (const auto& [rank, seat] : newcomers_) members.push_back(rank);
  std::sort(members.begin(), members.end());
  members.erase(std::unique(members.begin(), members.end()), members.end());
  return members;
}

void Group::begin_epoch(std::vector<int> next_members, std::uint32_t number) {
  MUSTER_ASSERT(number > epoch_, "epochs are numbered in their order");
  last_epoch_ = std::exchange(epoch_, number);
  members_ = std::move(next_members);
  seats_.merge(newcomers_);
  newcomers_.clear();
  lost_.clear();
}

std::vector<int> Group::live() const {
  std::vector<int> ranks;
  std::set_difference(members_.begin(), members_.end(), lost_.begin(), lost_.end(), std::back_inserter(ranks));
  return ranks;
}

bool Group::is_member(int rank) const { return std::binary_search(members_.begin(), members_.end(), rank); }

bool Group::has(SeatId seat) const { return rank_of(seats_, seat) || rank_of(newcomers_, seat); }

bool Group::is_newcomer(SeatId seat) const { return rank_of(newcomers_, seat).has_value(); }

}  // namespace musterd
