// Starts this node's daemon: one per user and socket, however many processes try at once.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include <muster/options.hpp>
#include <muster/result.hpp>

namespace muster::detail {

/// Returns when a daemon may be listening at `path`: one that this call started, or that another process started. The
/// daemon has a process group of its own, inherits no descriptors, and logs to `<path without .sock>.log`. `settings`
/// has flags and their values in addition to what the options say.
[[nodiscard]] Result<void> start_daemon(const std::string& path, const ConnectOptions& options,
                                        std::chrono::steady_clock::time_point until,
                                        const std::vector<std::string>& settings = {"--idle-exit", "10"});

/// The log of a daemon that start_daemon() started.
[[nodiscard]] std::string daemon_log(const std::string& socket);

/// Finds the daemon's executable: from the options, from $MUSTER_DAEMON, near this library or program, or on PATH.
[[nodiscard]] Result<std::string> find_daemon(const ConnectOptions& options);

}  // namespace muster::detail
