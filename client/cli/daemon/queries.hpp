// Small questions that other commands have for the daemon.
#pragma once

#include <sys/types.h>

#include <string>

namespace muster::cli {

/// The process id of the daemon on `socket` (empty: the default). 0 if there is none, or if its process can't be seen.
[[nodiscard]] pid_t daemon_pid(const std::string& socket);

}  // namespace muster::cli
