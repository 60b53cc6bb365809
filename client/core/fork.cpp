// The handlers of fork(), and the list of connections, which the handlers and find_connection() go through.
#include "fork.hpp"

#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include <muster/ipc/failpoint.hpp>

#include "base/ordered_mutex.hpp"
#include "connection.hpp"
#include "requests.hpp"

namespace muster::detail {

namespace {

struct Registry {
  OrderedMutex fork_mutex{Rank::forks};  ///< held while a fork is prepared and done: one fork at a time
  OrderedMutex mutex{Rank::connections};
  std::vector<std::weak_ptr<Connection>> connections;
  std::vector<std::shared_ptr<Connection>> forking;    ///< locked from prepare() to the end of the fork
  std::vector<std::shared_ptr<Connection>> passed_on;  ///< this process's own parent's; let go of without the lock
  std::vector<std::shared_ptr<Connection>> inherited;  ///< kept for ever: see child()
  bool handlers = false;
};

Registry& registry() {
  static auto* instance = new Registry;  // lives longer than every static object
  return *instance;
}

using Connections = std::vector<std::shared_ptr<Connection>>;

/// The registry's connections that `known` lacks. The caller holds the registry's lock. Returns shared pointers, as the
/// last owner must not end its connection under the lock.
Connections open_connections_beside(const Connections& known) {
  Connections found;
  for (const auto& weak : registry().connections) {
    auto connection = weak.lock();
    if (connection && std::find(known.begin(), known.end(), connection) == known.end())
      found.push_back(std::move(connection));
  }
  return found;
}

/// Leaves the registry locked. Another thread may open a connection meanwhile, and the child must know that one, too.
void prepare() {
  auto& all = registry();
  all.fork_mutex.lock();
  Connections prepared;
  Connections passed_on;
  all.mutex.lock();
  for (auto fresh = open_connections_beside({}); !fresh.empty();) {
    all.mutex.unlock();
    for (auto& connection : fresh) {
      // Connections that have ended count, too: their arrays are still there.
      const bool inherited = connection->inherited();
      if (!inherited) connection->before_fork();
      (inherited ? passed_on : prepared).push_back(std::move(connection));
    }
    all.mutex.lock();
    Connections known = prepared;
    known.insert(known.end(), passed_on.begin(), passed_on.end());
    fresh = open_connections_beside(known);
  }
  all.forking = std::move(prepared);
  all.passed_on = std::move(passed_on);
}

void parent() {
  auto& all = registry();
  const auto connections = std::exchange(all.forking, {});
  const auto passed_on = std::exchange(all.passed_on, {});
  all.mutex.unlock();
  for (const auto& connection : connections) connection->after_fork_in_parent();
  all.fork_mutex.unlock();
}

void child() {
  auto& all = registry();
  auto connections = std::exchange(all.forking, {});
  for (const auto& connection : connections) connection->after_fork_in_child();
  // The child never ends these connections. Ending one would wait for the parent's threads, which don't exist in the
  // child. So the life line lasts as long as this process.
  all.inherited.insert(all.inherited.end(), connections.begin(), connections.end());
  all.passed_on.clear();  // `inherited` keeps these
  all.mutex.unlock();
  all.fork_mutex.unlock();
}

bool serves(const Connection& connection, const std::string& socket) {
  return connection.alive() && (socket.empty() || connection.welcome().socket == socket);
}

}  // namespace

std::shared_ptr<Connection> remember_connection(const std::shared_ptr<Connection>& connection) {
  auto& all = registry();
  std::vector<std::shared_ptr<Connection>> others;  // ends after the lock
  const std::lock_guard lock(all.mutex);
  if (!std::exchange(all.handlers, true)) ::pthread_atfork(prepare, parent, child);
  std::erase_if(all.connections, [](const auto& weak) { return weak.expired(); });
  for (const auto& weak : all.connections) {
    auto other = weak.lock();
    if (!other) continue;
    others.push_back(other);
    if (serves(*other, connection->welcome().socket)) return other;
  }
  all.connections.push_back(connection);
  return connection;
}

std::shared_ptr<Connection> find_connection(const std::string& socket) {
  Connections open;
  {
    const std::lock_guard lock(registry().mutex);
    open = open_connections_beside({});
  }
  for (auto& connection : open)
    if (serves(*connection, socket)) return std::move(connection);
  return nullptr;
}

std::shared_ptr<Connection> Connection::existing(const std::string& socket) { return find_connection(socket); }

void Connection::before_fork() {
  // From here on no other thread of this process seals or releases, so the child inherits exactly what the daemon
  // keeps.
  submissions_.lock_for_fork();
  if (holds_ > 0) {
    has_forked_ = true;
    auto line = ask(*this, ipc::wire::Body_Fork, std::chrono::seconds(10),
                    [](auto& fbb) { return ipc::wire::CreateFork(fbb).Union(); });
    if (line && line->fds.size() == 1) lifeline_ = std::move(line->fds.front());
    MUSTER_FAILPOINT(forking);
  }
  completions_.lock_for_fork();
  exchange_.lock_for_fork();
  memory_mutex_.lock_for_fork();
  protocol_.lock_for_fork();
  fork_copies_.take(*arenas_);
}

void Connection::unlock_after_fork() {
  protocol_.unlock_after_fork();
  memory_mutex_.unlock_after_fork();
  exchange_.unlock_after_fork();
  completions_.unlock_after_fork();
  submissions_.unlock_after_fork();
}

void Connection::after_fork_in_parent() {
  fork_copies_.drop();
  lifeline_.reset();  // the child has its own copy of this descriptor
  unlock_after_fork();
  submissions_.flush_releases();
}

void Connection::after_fork_in_child() {
  protocol_.inherit();
  fork_copies_.move_in(*arenas_);
  arenas_->disown();
  left_in_place_->disown();
  channel_.inherit();
  exchange_.inherit();
  completions_.inherit();
  submissions_.inherit();
  unlock_after_fork();
}

}  // namespace muster::detail
