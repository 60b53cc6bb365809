// What the daemon tells its starter through the descriptor of --ready-fd, each on a line: the exit status, and if that
// is not 0, why the daemon can't serve and what to do. The log is not enough, as a log that can't be written may be the
// reason.
#pragma once

#include <muster/result.hpp>

namespace musterd {

/// The exit status of musterd.
enum class ExitStatus : int {
  ok = 0,
  failed = 1,
  usage = 2,
  served = 3,  ///< another daemon serves the socket
};

/// Says that clients can connect. A negative descriptor means that nobody waits.
void tell_ready(int ready_fd);
/// Says why the daemon failed, on standard error, too.
void tell_failed(int ready_fd, ExitStatus status, const muster::Error& why);

}  // namespace musterd
