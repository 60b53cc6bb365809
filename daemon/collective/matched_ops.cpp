#include "collective/matched_ops.hpp"

#include <algorithm>
#include <iterator>
#include <new>

namespace musterd {

namespace {

/// The op that the contributor comes to next; the end if it has come to all. It comes to them in their order, so it has
/// come to the first ones and to none of the others. Very many sends may wait for one receiver. Each of the two finds
/// its op at once, as it stands at one of the ends.
MatchedOps::Ops::iterator next_of(MatchedOps::Ops& ops, std::size_t index) {
  auto first = ops.begin();
  for (auto last = ops.end(); first != last; ++first) {
    if (!first->arrived[index]) return first;
    const auto before = std::prev(last);
    if (before->arrived[index]) return last;
    last = before;
  }
  return first;
}

}  // namespace

bool MatchedOps::begins_op(const Contribution& contribution) const {
  const auto found = ops_.find(match_of(contribution));
  if (found == ops_.end()) return true;
  return found->second.back().arrived[found->first.index_of(contribution)];
}

PendingOp& MatchedOps::find_or_add(const Contribution& contribution) {
  const auto found = ops_.try_emplace(match_of(contribution)).first;
  auto& [match, ops] = *found;
  const std::size_t index = match.index_of(contribution);
  const auto there = next_of(ops, index);
  if (there != ops.end()) return *there;
  Ops added;
  try {
    added.emplace_back().match = &match;
    added.back().arrived.resize(match.contributions_max(world_size_));
  } catch (const std::bad_alloc&) {
    if (ops.empty()) ops_.erase(found);
    throw;
  }
  ops.splice(ops.end(), added);
  return ops.back();
}

void MatchedOps::remove(const PendingOp& op) {
  const auto found = ops_.find(*op.match);
  found->second.erase(std::ranges::find(found->second, &op, [](const PendingOp& each) { return &each; }));
  if (found->second.empty()) ops_.erase(found);
}

MatchedOps::Ops* MatchedOps::find(const Match& match) {
  const auto found = ops_.find(match);
  return found == ops_.end() ? nullptr : &found->second;
}

void MatchedOps::tidy(const Match& match) {
  const auto found = ops_.find(match);
  if (found != ops_.end() && found->second.empty()) ops_.erase(found);
}

void MatchedOps::remove_first() {
  const auto first = ops_.begin();
  first->second.pop_front();
  if (first->second.empty()) ops_.erase(first);
}

}  // namespace musterd
