#include "fork.hpp"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cstring>
#include <mutex>
#include <vector>

#include "connection.hpp"
#include "requests.hpp"

namespace muster::detail {

namespace {

struct Registry {
  std::mutex mutex;
  std::vector<std::weak_ptr<Connection>> connections;
  std::vector<std::shared_ptr<Connection>> forking;  ///< locked between prepare and its end
  bool handlers = false;
};

Registry& registry() {
  static auto* instance = new Registry;  // outlives every static destructor
  return *instance;
}

void prepare() {
  auto& all = registry();
  std::vector<std::shared_ptr<Connection>> connections;
  {
    const std::lock_guard lock(all.mutex);
    for (const auto& weak : all.connections)
      if (auto connection = weak.lock(); connection && connection->alive())
        connections.push_back(std::move(connection));
  }
  for (const auto& connection : connections) connection->before_fork();
  all.mutex.lock();
  all.forking = std::move(connections);
}

void parent() {
  auto& all = registry();
  auto connections = std::move(all.forking);
  all.forking.clear();
  all.mutex.unlock();
  for (const auto& connection : connections) connection->after_fork_in_parent();
}

void child() {
  auto& all = registry();
  auto connections = std::move(all.forking);
  all.forking.clear();
  all.mutex.unlock();
  for (const auto& connection : connections) connection->after_fork_in_child();
}

}  // namespace

void remember_connection(const std::shared_ptr<Connection>& connection) {
  auto& all = registry();
  const std::lock_guard lock(all.mutex);
  if (!all.handlers) {
    ::pthread_atfork(prepare, parent, child);
    all.handlers = true;
  }
  std::erase_if(all.connections, [](const auto& weak) { return weak.expired(); });
  all.connections.push_back(connection);
}

void forget_connection(const Connection*) {
  auto& all = registry();
  const std::lock_guard lock(all.mutex);
  std::erase_if(all.connections, [](const auto& weak) { return weak.expired(); });
}

std::shared_ptr<Connection> find_connection(const std::string& socket) {
  auto& all = registry();
  const std::lock_guard lock(all.mutex);
  for (const auto& weak : all.connections)
    if (auto connection = weak.lock();
        connection && connection->alive() && (socket.empty() || connection->welcome().socket == socket))
      return connection;
  return nullptr;
}

std::shared_ptr<Connection> Connection::existing(const std::string& socket) { return find_connection(socket); }

void Connection::before_fork() {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0) {
    ipc::Fd daemons_end(pair[0]);
    lifeline_.reset(pair[1]);
    const int fd = daemons_end.get();
    static_cast<void>(ask(*this, ipc::wire::Body_Fork, std::chrono::seconds(10),
                          [](auto& fbb) { return ipc::wire::CreateFork(fbb).Union(); }, {&fd, 1}));
  }
  // Always in this order, so that no two forks and no other path can wait for each other.
  drain_mutex_.lock();
  send_mutex_.lock();
  submit_mutex_.lock();
  reply_mutex_.lock();
  works_mutex_.lock();
  end_mutex_.lock();
  random_mutex_.lock();
  segments_->lock();
  arena_->lock();
  fork_copies_.clear();
  for (const auto& region : arena_->unsealed())
    fork_copies_.push_back({region.address, std::vector<std::byte>(region.address, region.address + region.bytes)});
}

void Connection::unlock_after_fork() {
  arena_->unlock();
  segments_->unlock();
  random_mutex_.unlock();
  end_mutex_.unlock();
  works_mutex_.unlock();
  reply_mutex_.unlock();
  submit_mutex_.unlock();
  send_mutex_.unlock();
  drain_mutex_.unlock();
}

void Connection::after_fork_in_parent() {
  fork_copies_.clear();
  unlock_after_fork();
  lifeline_.reset();  // the child has its own copy of this end
}

void Connection::after_fork_in_child() {
  inherited_ = true;
  // From here on a write of this process stays in it. Pages that the parent writes later would still show through
  // untouched ones, hence the copies.
  for (const auto& [id, segment] : arena_->segments())
    ::mmap(segment.mapping.data(), segment.mapping.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
           segment.fd.get(), 0);
  for (const auto& copy : fork_copies_) std::memcpy(copy.address, copy.bytes.data(), copy.bytes.size());
  fork_copies_.clear();
  arena_->disown();
  channel_.forget();  // not inherited: MADV_DONTFORK
  socket_.reset();
  doorbell_.reset();
  notify_.reset();
  events_.reset();
  works_.clear();
  unlock_after_fork();
  // lifeline_ stays open for as long as this process lives: the daemon keeps what was inherited until then.
}

}  // namespace muster::detail
