// Starting this node's daemon: one per user and socket, however many processes try at once.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include <muster/options.hpp>
#include <muster/result.hpp>

namespace muster::detail {

/// Returns when a daemon may be listening at `path`: one that this call started, or another's. It runs in a session of
/// its own, inherits no descriptors, and logs to `<path without .sock>.log`. `settings`: its flags and their values,
/// besides what the options say.
[[nodiscard]] Result<void> start_daemon(const std::string& path, const ConnectOptions& options,
                                        std::chrono::steady_clock::time_point until,
                                        const std::vector<std::string>& settings = {"--idle-exit", "10"});

/// The log of a daemon that start_daemon() started.
[[nodiscard]] std::string daemon_log(const std::string& socket);

/// The daemon's executable: options, $MUSTER_DAEMON, beside this library or program, PATH.
[[nodiscard]] Result<std::string> find_daemon(const ConnectOptions& options);

}  // namespace muster::detail
