#include "collective/actions.hpp"

#include <algorithm>

#include "collective/op_effort.hpp"

namespace musterd {

/// With many ranks it takes time to find and to name them, and to tell everybody.
std::size_t effort_of(const Action& action) {
  constexpr std::size_t of_running = 16;
  constexpr std::size_t named_each = 32;
  constexpr std::size_t told_each = 512;
  if (const auto* failed = std::get_if<FailOp>(&action)) {
    const std::size_t named = failed->error.ranks().size();
    return failed->effort + failed->tickets.size() * (1 + named / told_each) + named / named_each;
  }
  return of_running + effort_of(*std::get<StartOp>(action).op);
}

void pay(std::size_t& left, const std::vector<Action>& actions, std::size_t before) {
  std::size_t cost = 1;
  for (std::size_t i = before; i < actions.size(); ++i) cost += effort_of(actions[i]);
  left -= std::min(left, cost);
}

}  // namespace musterd
