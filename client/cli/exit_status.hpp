// The exit statuses of `muster`, which scripts test for.
#pragma once

#include <muster/result.hpp>

namespace muster::cli {

enum class ExitStatus : int {
  ok = 0,
  failed = 1,
  usage = 2,
  no_daemon = 3,
  timeout = 4,
  out_of_memory = 5,
  peer_lost = 6,
};

[[nodiscard]] constexpr ExitStatus exit_status_of(Code code) {
  switch (code) {
    case Code::daemon_unavailable:
    case Code::daemon_restarted: return ExitStatus::no_daemon;
    case Code::timeout: return ExitStatus::timeout;
    case Code::out_of_memory:
    case Code::quota_exceeded: return ExitStatus::out_of_memory;
    case Code::peer_lost: return ExitStatus::peer_lost;
    default: return ExitStatus::failed;
  }
}

}  // namespace muster::cli
