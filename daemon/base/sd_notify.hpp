// Readiness, the way systemd and other supervisors want to hear it (sd_notify(3)'s protocol).
#pragma once

#include <string_view>

namespace musterd {

/// Sends `state` ("READY=1", "STOPPING=1") to $NOTIFY_SOCKET; does nothing if there is none.
void sd_notify(std::string_view state);

}  // namespace musterd
