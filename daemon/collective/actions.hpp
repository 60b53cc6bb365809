// What a muster asks for: that an op is run, or that ranks are told that it failed. The session does both.
#pragma once

#include <cstddef>
#include <variant>
#include <vector>

#include <muster/result.hpp>

#include "collective/contribution.hpp"

namespace musterd {

/// The muster is complete: plan it, run it, then call finished().
struct StartOp {
  OpPtr op;
};
/// The op ended with this error: tell all these seats.
struct FailOp {
  OpId op = 0;
  muster::Error error;
  std::vector<Ticket> tickets;
  std::size_t effort = 0;  ///< how much work it was to let its contributions go
};
using Action = std::variant<StartOp, FailOp>;

/// How much work an action is, where 1 is a look at one op. A failure sends messages, and a start runs an op.
[[nodiscard]] std::size_t effort_of(const Action& action);
/// Takes from `left` the cost of a look at one op, and of what was appended to `actions` after the first `before`.
void pay(std::size_t& left, const std::vector<Action>& actions, std::size_t before);

}  // namespace musterd
