// The longest times that anybody can ask for.
#pragma once

#include <chrono>

namespace muster::ipc {

/// Of an op, a request or one wait. Longer ones are not told apart.
inline constexpr std::chrono::hours timeout_max{24};
/// Of what a daemon is told once: how long it keeps pickled refs' objects, or stays without clients.
inline constexpr std::chrono::hours daemon_time_max{366 * 24};

}  // namespace muster::ipc
