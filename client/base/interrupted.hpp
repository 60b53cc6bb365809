// Says whether somebody wants a wait to end, for instance by Python's Ctrl-C. A waiting thread asks at least every 50
// ms, and holds no lock while it asks.
#pragma once

#include <chrono>

namespace muster::detail {

/// How often a waiter checks that the daemon lives, and whether the wait should end.
inline constexpr auto look_up_interval = std::chrono::milliseconds(50);

[[nodiscard]] bool interrupted();
/// Called at least every 50 ms by a waiting thread, while it holds no lock; true ends the wait.
void set_interrupted(bool (*callback)());

}  // namespace muster::detail
