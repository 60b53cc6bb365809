// What whoever started the daemon reads from the descriptor that came with --ready-fd: a newline once clients can
// connect, or else why they never will. The log is no place for that: it may be what can't be written.
#pragma once

#include <muster/result.hpp>

namespace musterd {

/// Negative descriptors: nobody waits.
void tell_ready(int ready_fd);
/// On standard error, too.
void tell_failed(int ready_fd, const muster::Error& why);

}  // namespace musterd
