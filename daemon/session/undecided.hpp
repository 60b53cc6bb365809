// What was proposed to the decider and has no answer yet, and answers that found no memory to be carried out.
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
  /// Of what was not decided at once. May throw for want of memory: then it is called again by go_on().
  using CarryOut = std::function<void(const Item& item, const Decision& decision)>;
  /// `event`: does what comes from outside as an event of the node.
  Undecided(std::function<void(FunctionRef)> event, CarryOut carry_out)
      : event_(std::move(event)), carry_out_(std::move(carry_out)) {}

  /// Gives the answer if it comes at once. May throw before anything is proposed, not after.
  [[nodiscard]] std::optional<Decision> propose(Decider& decider, const Proposal& proposal, const GroupPtr& group,
                                                const OpPtr& op);

  /// The daemon ends: what has no answer is visited, and then nobody wants one.
  template <class Visit>
  void abandon(Visit visit) {
    for (auto* entries : {&waiting_, &decided_})
      for (Entry& entry : *entries)
        if (entry.item.group) visit(std::exchange(entry.item, {}));
  }
  [[nodiscard]] bool goes_on() const { return !decided_.empty(); }
  /// One of those that found no memory.
  void go_on();

 private:
  friend class NodeAudit;  ///< of the tests: adds up what is held
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
  Entries decided_;  ///< and not carried out
  Entries spare_;    ///< one that what is proposed next may need: then nothing may fail any more
};

}  // namespace musterd
