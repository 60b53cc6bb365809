// Answers who calls an op again by its key, once the op is done: with what the op's rank got then. Groups ask for it
// (see History).
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
  Retries(Giver& giver, Works& works) : giver_(giver), works_(works) {}

  /// Answers a call for an op that the group's history remembers with the outcome of that op. False if the history does
  /// not have it.
  [[nodiscard]] bool answer(const GroupState& state, const std::string& key, const Contribution& call) noexcept;
  /// What each rank of the op gets, or one entry for all, for History::remember(); nothing if the op is not to be
  /// remembered. May throw.
  [[nodiscard]] static std::vector<Objects> to_remember(const RunningOp& running, std::span<const ObjectPtr> outputs);
  /// Answers the calls for the op that came while it ran. Its own outcome is decided. A client without memory for its
  /// answer is cut off. If there is no memory to look for the calls, or if they are very many, they wait for their
  /// deadlines.
  void answer_those_who_called(const GroupState& state, const std::string& key) noexcept;

 private:
  Giver& giver_;
  Works& works_;
};

}  // namespace musterd
