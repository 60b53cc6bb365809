#include "collective/members.hpp"

#include <algorithm>

#include "base/assert.hpp"
#include "base/make_room.hpp"

namespace musterd {

Members::Members(int world_size, std::span<const int> ranks)
    : standings_(static_cast<std::size_t>(world_size)), expected_(ranks.size()) {
  for (const int rank : ranks) standings_[static_cast<std::size_t>(rank)] = Standing::live;
}

std::size_t Members::count_live() const {
  return static_cast<std::size_t>(std::ranges::count(standings_, Standing::live));
}

void Members::prepare_loss(int rank, const Loss& loss) {
  make_room_in(gone_);
  losses_.try_emplace(rank, loss);
}

void Members::withdraw(int rank, const Loss& loss, Standing after) {
  MUSTER_ASSERT(is_live(rank), "only live members are lost");
  prepare_loss(rank, loss);
  standings_[static_cast<std::size_t>(rank)] = after;
  if (after != Standing::gone) return;
  --expected_;
  gone_.push_back(rank);
}

void Members::reoccupy(int rank) {
  MUSTER_ASSERT(is_vacant(rank), "only vacant seats are taken");
  standings_[static_cast<std::size_t>(rank)] = Standing::live;
  losses_.erase(rank);
}

std::set<int> Members::lost() const {
  std::set<int> ranks;
  for (const auto& [rank, loss] : losses_) ranks.insert(rank);
  return ranks;
}

}  // namespace musterd
