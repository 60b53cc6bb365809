// Starting this node's daemon: one per user and socket, however many processes try at once.
#pragma once

#include <chrono>
#include <string>

#include <muster/options.hpp>
#include <muster/result.hpp>

namespace muster::detail {

/// Returns when a daemon may be listening at `path`: one that this call started, or another's. It runs in a session of
/// its own, inherits no descriptors, logs to `<path without .sock>.log`, and ends when idle.
[[nodiscard]] Result<void> start_daemon(const std::string& path, const ConnectOptions& options,
                                        std::chrono::steady_clock::time_point until,
                                        const std::string& idle_exit_s = "10");

/// The log of a daemon that start_daemon() started.
[[nodiscard]] std::string daemon_log(const std::string& socket);

/// The daemon's executable: options, $MUSTER_DAEMON, beside this library or program, PATH.
[[nodiscard]] Result<std::string> find_daemon(const ConnectOptions& options);

}  // namespace muster::detail
