// The longest times that a caller can ask for.
#pragma once

#include <chrono>

namespace muster::ipc {

/// For an op, a request or one wait. Longer times count as this.
inline constexpr std::chrono::hours timeout_max{24};
/// For settings of a daemon: how long it keeps the objects of pickled refs, or stays without clients.
inline constexpr std::chrono::hours daemon_time_max{366 * 24};

}  // namespace muster::ipc
