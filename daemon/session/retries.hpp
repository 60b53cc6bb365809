// Answers who calls an op again by its key, once the op is done: with what the op's rank got then. Groups ask for it
// (see History). It also keeps the outcome when the op ends.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "collective/contribution.hpp"
#include "session/giver.hpp"
#include "session/group_state.hpp"
#include "session/history.hpp"
#include "session/running_op.hpp"
#include "session/works.hpp"

namespace musterd {

class Retries {
 public:
  Retries(History& history, Giver& giver, Works& works) : history_(history), giver_(giver), works_(works) {}

  /// Answers a call for an op that the group's history remembers with the outcome of that op. False if the history does
  /// not have it.
  [[nodiscard]] bool answer(const GroupState& state, const std::string& key, const Contribution& call) noexcept;
  /// What each rank of the op gets, or one entry for all; nothing if the op is not to be remembered. May throw.
  [[nodiscard]] static std::vector<Objects> to_remember(const RunningOp& running, std::span<const ObjectPtr> outputs);
  /// Remembers what to_remember() returned. The op's own ranks have still to be told.
  void remember(GroupState& state, const Op& op, std::span<const Objects> given) noexcept;
  /// Answers the calls for the op that came while it ran. Its own ranks have been told. If there is no memory for an
  /// answer, the call waits for its deadline.
  void answer_those_who_called(const GroupState& state, const std::string& key) noexcept;

 private:
  History& history_;
  Giver& giver_;
  Works& works_;
};

}  // namespace musterd
