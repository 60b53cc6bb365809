#include "session/undecided.hpp"

#include <utility>

namespace musterd {

std::optional<Decision> Undecided::propose(Decider& decider, const Proposal& proposal, const GroupPtr& group,
                                           const OpPtr& op) {
  if (spare_.empty()) spare_.emplace_back();
  const auto entry = spare_.begin();
  auto decision = decider.propose(proposal, [this, entry](Decision late) { decided(entry, std::move(late)); });
  if (decision) return decision;
  entry->item = {group, op};
  waiting_.splice(waiting_.end(), spare_, entry);
  return std::nullopt;
}

void Undecided::decided(Entries::iterator entry, Decision decision) noexcept {
  entry->decision = std::move(decision);
  decided_.splice(decided_.end(), waiting_, entry);
  event_([this, entry] { carry_out(entry); });
}

void Undecided::carry_out(Entries::iterator entry) {
  carry_out_(entry->item, entry->decision);
  decided_.erase(entry);
}

void Undecided::go_on() {
  if (!decided_.empty()) carry_out(decided_.begin());
}

}  // namespace musterd
