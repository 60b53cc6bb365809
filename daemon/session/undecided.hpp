// Proposals that the decider has not answered yet, and answers that could not be carried out for lack of memory.
#pragma once

#include <functional>
#include <list>
#include <optional>
#include <utility>

#include "base/function_ref.hpp"
#include "cluster/decider.hpp"
#include "collective/contribution.hpp"
#include "session/group_state.hpp"

namespace musterd {

class Undecided {
 public:
  struct Item {
    GroupPtr group;
    OpPtr op;  ///< null: the group's next epoch
  };
  /// Carries out a decision that did not come at once. If it throws, as there is no memory, go_on() calls it again.
  using CarryOut = std::function<void(const Item& item, const Decision& decision)>;
  /// `event` runs a call from outside as an event of the node.
  Undecided(std::function<void(FunctionRef)> event, CarryOut carry_out)
      : event_(std::move(event)), carry_out_(std::move(carry_out)) {}

  /// Returns the answer if it comes at once. May throw before anything is proposed, not after.
  [[nodiscard]] std::optional<Decision> propose(Decider& decider, const Proposal& proposal, const GroupPtr& group,
                                                const OpPtr& op);

  /// The daemon ends: visits all items without an answer. After this, answers are ignored.
  template <class Visit>
  void abandon(Visit visit) {
    for (auto* entries : {&waiting_, &decided_})
      for (Entry& entry : *entries)
        if (entry.item.group) visit(std::exchange(entry.item, {}));
  }
  [[nodiscard]] bool goes_on() const { return !decided_.empty(); }
  /// Carries out one of the answers that found no memory before.
  void go_on();

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  struct Entry {
    Item item;
    Decision decision;
  };
  using Entries = std::list<Entry>;

  void decided(Entries::iterator entry, Decision decision) noexcept;
  void carry_out(Entries::iterator entry);

  std::function<void(FunctionRef)> event_;
  CarryOut carry_out_;
  Entries waiting_;
  Entries decided_;  ///< decided, but not carried out
  Entries spare_;    ///< an entry for the next proposal, as nothing may fail once it is made
};

}  // namespace musterd
