// fork(): what a child inherits must neither reach into the parent's memory nor be pulled away under it.
// Prepare takes all locks, asks the daemon to keep what we hold for the child (a life line), and copies live unsealed
// regions; the child puts private memory where the leased segments were.
#pragma once

#include <memory>
#include <string>

namespace muster::detail {

class Connection;

/// Connections that take part in forks, and that Connection::existing() finds.
void remember_connection(const std::shared_ptr<Connection>& connection);
void forget_connection(const Connection* connection);
[[nodiscard]] std::shared_ptr<Connection> find_connection(const std::string& socket);

}  // namespace muster::detail
