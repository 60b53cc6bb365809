// fork(): a child must not reach into its parent's memory, and what the child inherits must not vanish while it uses
// it. Prepare takes all locks, asks the daemon to keep for the child what this process holds (a life line), and copies
// live unsealed regions. The child puts private memory where the leased segments were.
#pragma once

#include <memory>
#include <string>

namespace muster::detail {

class Connection;

/// From now on the connection takes part in forks, and Connection::existing() finds it. Returns the connection to use:
/// another thread may have opened one to the same socket first.
[[nodiscard]] std::shared_ptr<Connection> remember_connection(const std::shared_ptr<Connection>& connection);
[[nodiscard]] std::shared_ptr<Connection> find_connection(const std::string& socket);

}  // namespace muster::detail
