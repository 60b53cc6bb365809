// What the kernel tells about a process that is not a child: how it ends, and whether it is stopped. For messages.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

namespace musterd {

/// "was killed by signal 9 (Killed)", "exited with status 3", or "ended" if it returned 0 or this process may not know.
/// Nothing while the process lives. Once its parent has waited for it, only a `pidfd` of it can tell, from Linux 6.15
/// on; -1: there is none.
[[nodiscard]] std::optional<std::string> how_it_ends(pid_t pid, int pidfd);

/// True if a signal such as SIGSTOP or a debugger has stopped the process.
[[nodiscard]] bool is_stopped(pid_t pid);

}  // namespace musterd
