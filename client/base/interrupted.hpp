// Whether somebody wants a wait to end: Python's Ctrl-C. Asked at least every 50 ms by a waiting thread, without any
// lock.
#pragma once

#include <chrono>

namespace muster::detail {

/// How often a waiter looks whether the daemon lives and whether it shall stop waiting.
inline constexpr auto look_up_interval = std::chrono::milliseconds(50);

[[nodiscard]] bool interrupted();
/// Called at least every 50 ms by a waiting thread, while it holds no lock; true ends the wait.
void set_interrupted(bool (*callback)());

}  // namespace muster::detail
