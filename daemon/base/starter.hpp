// What the starter of the daemon reads from the descriptor that came with --ready-fd, each on a line: the exit status,
// and if that is not 0, why the daemon never serves and what to do. The log is no place for that: it may be what can't
// be written.
#pragma once

#include <muster/result.hpp>

namespace musterd {

/// musterd's.
enum class ExitStatus : int {
  ok = 0,
  failed = 1,
  usage = 2,
  served = 3,  ///< another daemon serves the socket
};

/// Clients can connect. Negative descriptors: nobody waits.
void tell_ready(int ready_fd);
/// On standard error, too.
void tell_failed(int ready_fd, ExitStatus status, const muster::Error& why);

}  // namespace musterd
