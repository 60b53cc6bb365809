// Who may still come to an op, and what the loss of a rank means for what is pending and for what comes.
#include <algorithm>
#include <utility>

#include "collective/agreement.hpp"
#include "collective/muster.hpp"

namespace musterd {

using muster::Error;

bool Muster::may_come(const Slot& slot, int rank) const {
  switch (standing(rank)) {
    case Standing::live: return true;
    case Standing::vacant: return !slot.is(Channel::Of::reform);
    case Standing::absent:
    case Standing::gone: return false;
  }
  return false;
}

/// How many contributions the rank has not brought: 2 where it would be sender and receiver.
std::size_t Muster::owes(const Slot& slot, int rank) const {
  if (!slot.channel) return seat(rank).position <= slot.sequence ? 1 : 0;
  if (!slot.is(Channel::Of::pair)) return slot.arrived[static_cast<std::size_t>(rank)] ? 0 : 1;
  const bool sends = slot.channel->source == rank && !slot.arrived[0];
  const bool receives = slot.channel->destination == rank && !slot.arrived[1];
  return std::size_t{sends} + std::size_t{receives};
}

/// For a slot that nobody has come to.
std::size_t Muster::count_awaited(const Slot& slot) const {
  if (!slot.channel || slot.is(Channel::Of::key)) return expected_;
  if (slot.is(Channel::Of::pair))
    return std::size_t{may_come(slot, slot.channel->source)} + std::size_t{may_come(slot, slot.channel->destination)};
  std::size_t count = 0;
  for (int rank = 0; rank < world_size_; ++rank)
    if (may_come(slot, rank)) ++count;
  return count;
}

std::vector<int> Muster::missing(const Slot& slot) const {
  std::vector<int> ranks;
  for (int rank = 0; rank < world_size_; ++rank)
    if (may_come(slot, rank) && owes(slot, rank) > 0) ranks.push_back(rank);
  return ranks;
}

/// Why an op can't begin; only asked of its first contribution.
std::optional<Error> Muster::refusal(const Slot& slot, const Contribution& contribution) const {
  if (slot.is(Channel::Of::reform)) return std::nullopt;
  if (refusing_) return lost_before_called(slot.op->name, losses_);
  if (!has_root(contribution.kind) && !is_pairwise(contribution.kind)) return std::nullopt;
  const int needed = contribution.root;
  if (needed < 0 || needed >= world_size_) return std::nullopt;  // Invalid, which the agreement tells
  if (standing(needed) == Standing::absent) return not_members(slot.op->name, std::vector{needed});
  if (standing(needed) == Standing::gone) return lost_before_called(slot.op->name, {{needed, losses_.at(needed)}});
  return std::nullopt;
}

bool Muster::needs_in_person(const Slot& slot, int rank) {
  if (slot.is(Channel::Of::pair)) return slot.channel->source == rank || slot.channel->destination == rank;
  const Contribution& first = slot.op->contributions.front();
  return has_root(first.kind) && first.root == rank;
}

void Muster::lose(int rank, std::string reason, std::vector<Action>& actions) {
  refusing_ = true;
  withdraw(rank, std::move(reason), Standing::gone, actions);
}

void Muster::shrink(int rank, std::string reason, std::vector<Action>& actions) {
  withdraw(rank, std::move(reason), Standing::gone, actions);
}

void Muster::vacate(int rank, std::string reason, std::vector<Action>& actions) {
  withdraw(rank, std::move(reason), Standing::vacant, actions);
}

void Muster::withdraw(int rank, std::string reason, Standing after, std::vector<Action>& actions) {
  if (standing(rank) != Standing::live) return;
  const Losses loss{{rank, reason}};
  losses_.insert_or_assign(rank, std::move(reason));
  seat(rank).standing = after;
  if (after == Standing::gone) --expected_;
  for_each_slot([&](Slot& slot) {
    const std::size_t owed = owes(slot, rank);
    if (owed == 0 || may_come(slot, rank)) return;
    slot.awaited -= owed;
    if (!slot.gathering()) return;
    const bool fatal = !slot.is(Channel::Of::reform) && (refusing_ || needs_in_person(slot, rank));
    if (fatal) fail(slot, lost_while_awaited(slot.op->name, loss), actions);
    else if (slot.awaited == 0) start(slot, actions);
  });
  sweep();
  forget_old_failures();
}

void Muster::reoccupy(int rank) {
  if (standing(rank) != Standing::vacant) return;
  seat(rank).standing = Standing::live;
  losses_.erase(rank);
  for_each_slot([&](Slot& slot) {
    if (slot.is(Channel::Of::reform)) slot.awaited += owes(slot, rank);
  });
}

Error Muster::late(const Slot& slot, TimePoint now) const {
  const auto absent = missing(slot);
  Losses vacant;
  for (int rank : absent)
    if (standing(rank) == Standing::vacant) vacant.emplace(rank, losses_.at(rank));
  if (!vacant.empty()) return not_replaced(slot.op->name, vacant);
  std::vector<int> present;
  for (const Contribution& contribution : slot.op->contributions) present.push_back(contribution.rank);
  std::sort(present.begin(), present.end());
  return deadline_passed(slot.op->name, absent, present, now - slot.since);
}

}  // namespace musterd
