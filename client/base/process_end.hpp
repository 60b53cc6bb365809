// The end of a process that ends in order frees what it has. Other ranks should not take that for leave(), and should
// learn how the process has ended, which the daemon sees only if the kernel closes the socket.
#pragma once

namespace muster::detail {

/// The process ends: from now on seats and sockets are kept until the kernel takes them.
void process_ends();
[[nodiscard]] bool process_is_ending();

}  // namespace muster::detail
