// The handlers of fork(), and the list of connections that they, and lookups of one, go through.
#include "fork.hpp"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include <muster/ipc/failpoint.hpp>

#include "connection.hpp"
#include "requests.hpp"

namespace muster::detail {

namespace {

struct Registry {
  std::mutex fork_mutex;  ///< held from prepare to its end: one fork at a time
  std::mutex mutex;
  std::vector<std::weak_ptr<Connection>> connections;
  std::vector<std::shared_ptr<Connection>> forking;    ///< locked between prepare and its end
  std::vector<std::shared_ptr<Connection>> passed_on;  ///< this process's own parent's; let go of without the lock
  std::vector<std::shared_ptr<Connection>> inherited;  ///< kept for ever: see child()
  bool handlers = false;
};

Registry& registry() {
  static auto* instance = new Registry;  // outlives every static destructor
  return *instance;
}

using Connections = std::vector<std::shared_ptr<Connection>>;

/// Those of the registry that `known` lacks; the caller holds its lock. Copies, as the last owner must not end its
/// connection under the lock.
Connections open_connections_beside(const Connections& known) {
  Connections found;
  for (const auto& weak : registry().connections) {
    auto connection = weak.lock();
    if (connection && std::find(known.begin(), known.end(), connection) == known.end())
      found.push_back(std::move(connection));
  }
  return found;
}

/// Leaves the registry locked. Another thread may open a connection meanwhile, which the child must know, too.
void prepare() {
  auto& all = registry();
  all.fork_mutex.lock();
  Connections prepared;
  Connections passed_on;
  all.mutex.lock();
  for (auto fresh = open_connections_beside({}); !fresh.empty();) {
    all.mutex.unlock();
    for (auto& connection : fresh) {
      // One that has ended, too: its arrays are still there.
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
  // Never ended: threads that were waiting in it in the parent would be waited for, and they are not here. So the life
  // line lasts as long as this process.
  all.inherited.insert(all.inherited.end(), connections.begin(), connections.end());
  all.passed_on.clear();  // kept already
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

/// Read through the file: other threads may be writing these arrays now, as they may during any fork, and what the
/// kernel reads meanwhile is no race of this program.
void Connection::copy_for_child(const Stretch& stretch) {
  std::vector<std::byte> bytes(stretch.bytes);
  std::uint64_t done = 0;
  while (done < bytes.size()) {
    const auto got =
        ::pread(stretch.fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(stretch.offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    done += static_cast<std::uint64_t>(got);
  }
  fork_copies_.push_back({stretch.address, std::move(bytes), done == stretch.bytes});
}

void Connection::before_fork() {
  // From here on no other thread of ours seals or releases, so that what the daemon keeps is what the child inherits.
  submit_mutex_.lock();
  submitter_ = std::this_thread::get_id();
  if (holds_ > 0) {
    has_forked_ = true;
    auto line = ask(*this, ipc::wire::Body_Fork, std::chrono::seconds(10),
                    [](auto& fbb) { return ipc::wire::CreateFork(fbb).Union(); });
    if (line && line->fds.size() == 1) lifeline_ = std::move(line->fds.front());
    MUSTER_FAILPOINT(forking);
  }
  // Always in this order, so that no two forks and no other path can wait for each other.
  drain_mutex_.lock();
  send_mutex_.lock();
  reply_mutex_.lock();
  works_mutex_.lock();
  end_mutex_.lock();
  random_mutex_.lock();
  hard_mutex_.lock();
  segments_->lock();
  arena_->lock();
  fork_copies_.clear();
  for (const auto& region : arena_->unsealed())
    copy_for_child({region.address, region.bytes, arena_->segments().at(region.segment).fd.get(), region.offset});
  for (const auto& [id, lease] : hard_leases_) copy_for_child(lease);
}

void Connection::unlock_after_fork() {
  arena_->unlock();
  segments_->unlock();
  hard_mutex_.unlock();
  random_mutex_.unlock();
  end_mutex_.unlock();
  works_mutex_.unlock();
  reply_mutex_.unlock();
  send_mutex_.unlock();
  drain_mutex_.unlock();
  submitter_ = std::thread::id{};
  submit_mutex_.unlock();
}

void Connection::after_fork_in_parent() {
  fork_copies_.clear();
  lifeline_.reset();  // the child has its own copy of this end
  unlock_after_fork();
  flush_releases();
}

namespace {

/// From here on a write of this process stays in it.
void make_private(std::byte* address, std::uint64_t bytes, int fd) {
  void* mapped = ::mmap(address, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0);
  // A child that could reach into its parent's memory must not run.
  if (mapped == MAP_FAILED) std::abort();
}

}  // namespace

void Connection::after_fork_in_child() {
  inherited_ = true;
  for (const auto& [id, segment] : arena_->segments())
    make_private(segment.mapping.data(), segment.mapping.bytes(), segment.fd.get());
  for (const auto& [id, lease] : hard_leases_) make_private(lease.address, lease.bytes, lease.fd);
  // Pages that the parent writes later would still show through untouched ones, hence the copies.
  for (const auto& copy : fork_copies_) {
    if (!copy.whole) std::abort();  // an array with a hole in it must not be computed with
    std::memcpy(copy.address, copy.bytes.data(), copy.bytes.size());
  }
  fork_copies_.clear();
  arena_->disown();
  channel_.forget();  // not inherited: MADV_DONTFORK
  socket_.reset();
  doorbell_.reset();
  notify_.reset();
  events_.reset();
  woken_.reset();
  releases_.clear();
  has_releases_ = false;
  deferred_.clear();
  unlock_after_fork();
}

}  // namespace muster::detail
