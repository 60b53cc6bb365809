// fork(): what a child inherits must neither reach into the parent's memory nor be pulled away under it.
// Prepare takes all locks, asks the daemon to keep what we hold for the child (a life line), and copies live unsealed
// regions; the child puts private memory where the leased segments were.
#pragma once

#include <memory>
#include <string>

namespace muster::detail {

class Connection;

/// From now on the connection takes part in forks, and Connection::existing() finds it. Returns the one to use: another
/// thread may have been faster with one to the same socket.
[[nodiscard]] std::shared_ptr<Connection> remember_connection(const std::shared_ptr<Connection>& connection);
[[nodiscard]] std::shared_ptr<Connection> find_connection(const std::string& socket);

}  // namespace muster::detail
