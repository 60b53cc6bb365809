// Accepts and refuses connections, even when descriptors have run out.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <optional>

#include <fmt/format.h>

#include <muster/ipc/socket.hpp>

#include "base/log.hpp"
#include "session/asio_server.hpp"
#include "session/frames.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

Error out_of_descriptors() {
  return {Code::quota_exceeded, "the daemon is out of file descriptors",
          "raise its limit (ulimit -n) or end some clients"};
}

namespace {

using Of = BlockingPool::Source::Of;

/// The process at the other end; nothing if there is none any more.
std::optional<ucred> peer_of(const ipc::Fd& socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return {};
  return credentials;
}

/// The source of a process. Of processes that the daemon can't see (pid 0), each connection has a source of its own.
/// Those of a user that have no client number yet share one.
BlockingPool::Source source_of(Of of, UserId user, std::int32_t pid, std::uint32_t client = 0) {
  constexpr std::uint64_t unseen = std::uint64_t{1} << 32;
  return {of, user, pid != 0 ? static_cast<std::uint64_t>(pid) : unseen + client};
}

}  // namespace

BlockingPool::Source AsioServer::source_of(const Connection& connection, Of of) {
  return musterd::source_of(of, connection.user, connection.pid, connection.id.value);
}

Result<void> watch(Descriptor& descriptor, ipc::Fd& fd) {
  error_code error;
  descriptor.assign(fd.get(), error);
  if (error) return ipc::system_error(Code::out_of_memory, "the daemon can't watch one more descriptor", error.value());
  static_cast<void>(fd.release());
  return {};
}

void AsioServer::accept_some() noexcept {
  accepting_.succeeded();
  try {
    if (accept_waiting()) return wait_for_connections();
  } catch (const std::exception&) {
    // There is no memory. The newcomer waits in line, as newcomers do when there is no descriptor.
  }
  accepting_.failed(Clock::now());
}

void AsioServer::wait_for_connections() {
  if (listening_) return;
  listener_.async_wait(readable, [this](error_code error) {
    listening_ = false;
    if (!error && !stopping_) accept_some();
  });
  listening_ = true;
}

bool AsioServer::accept_waiting() {
  constexpr int connections_per_turn = 32;
  for (int i = 0; i < connections_per_turn; ++i) {
    if (!newcomer_)
      newcomer_.reset(::accept4(listener_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (newcomer_) {
      adopt(newcomer_);
      continue;
    }
    if (errno == EMFILE || errno == ENFILE) {
      // The others wait in line until there is a descriptor to refuse the next one with.
      refuse_one();
      return false;
    }
    break;
  }
  return true;
}

void AsioServer::refuse_one() {
  const auto take_spare = [this] { spare_.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC)); };
  if (!spare_) take_spare();
  if (!spare_) return;
  spare_.reset();
  newcomer_.reset(::accept4(listener_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!newcomer_) return take_spare();
  const auto peer = peer_of(newcomer_).value_or(ucred{});
  refuse(newcomer_, musterd::source_of(Of::closing, peer.uid, peer.pid), out_of_descriptors(), [this, take_spare] {
    take_spare();
    accepting_.hurry(Clock::now());
  });
}

/// Takes the socket if it does not throw.
void AsioServer::refuse(ipc::Fd& socket, BlockingPool::Source source, const Error& why, std::function<void()> then) {
  static_cast<void>(ipc::send_packet(socket, frames::goodbye(why), {}));
  Charge nothing;
  close_elsewhere(socket, source, nothing, std::move(then));
  log_limited(LogLevel::warning, "refuse", "refused a connection: {}", why.describe());
}

/// Takes the socket and the charge if it does not throw.
void AsioServer::close_elsewhere(ipc::Fd& socket, BlockingPool::Source source, Charge& descriptors,
                                 std::function<void()> then) {
  struct Closing {
    ipc::Fd socket;
    Charge descriptors;
    std::function<void()> then;
  };
  Closing closing{std::move(socket), std::move(descriptors), std::move(then)};
  try {
    blocking_.run_with(
        source, closing, [](Closing& held) { held.socket.reset(); },
        [](Closing& held) {
          held.descriptors.reset();
          if (held.then) held.then();
        });
  } catch (...) {
    socket = std::move(closing.socket);
    descriptors = std::move(closing.descriptors);
    throw;
  }
}

/// Numbers are reused after four billion connections. Life lines have a range of their own.
ClientId AsioServer::next_client() {
  const auto is_taken = [this](ClientId id) { return connections_.contains(id) || leaving_.contains(id); };
  do last_client_ = (last_client_ + 1) % first_heir;
  while (last_client_ == 0 || is_taken(ClientId{last_client_}));
  return ClientId{last_client_};
}

/// Takes the socket if it does not throw. If it throws, it is called again with the same socket.
void AsioServer::adopt(ipc::Fd& socket) {
  const auto peer = peer_of(socket);
  Charge nothing;
  if (!peer) return close_elsewhere(socket, musterd::source_of(Of::closing, settings_.node.user, 0), nothing);
  const ucred& credentials = *peer;
  const auto closing = musterd::source_of(Of::closing, credentials.uid, credentials.pid);
  if (auto room = shares_.has_room_for(credentials.uid); !room) return refuse(socket, closing, room.error());
  ipc::Fd process(static_cast<int>(::syscall(SYS_pidfd_open, credentials.pid, 0)));
  if (!process && (errno == EMFILE || errno == ENFILE)) return refuse(socket, closing, out_of_descriptors());
  const auto connection = std::make_shared<Connection>(io_, next_client());
  connection->user = credentials.uid;
  connection->pid = credentials.pid;
  connection->turns = rounds_.turns_of(credentials.uid, credentials.pid, now_);
  const auto leave_out = [&] {
    if (connections_.erase(connection->id) > 0) shares_.went(connection->user, false);
    error_code ignored;
    connection->hello.cancel();
    connection->process.close(ignored);
    if (connection->socket.is_open()) socket.reset(connection->socket.release());
  };
  try {
    const auto admitted = admit(connection, socket, process);
    if (admitted) return;
    leave_out();
    refuse(socket, closing, admitted.error());
  } catch (...) {
    leave_out();
    throw;
  }
}

/// If this refuses or throws, the caller has to undo what it did.
Result<void> AsioServer::admit(const ConnectionPtr& connection, ipc::Fd& socket, ipc::Fd& process) {
  // Each connection brings room in these lists, so that noting it there later takes no memory.
  const auto reserve = [all = connections_.size() + leaving_.size() + 1](std::vector<ConnectionPtr>& noted) {
    if (noted.capacity() < all) noted.reserve(2 * all);
  };
  reserve(dirty_);
  reserve(cut_off_);
  if (auto watched = watch(connection->socket, socket); !watched) return watched;
  // Without a pidfd (the process is gone already, or in another pid namespace) only the end of the socket shows its
  // death.
  if (process) {
    if (auto watched = watch(connection->process, process); !watched) return watched;
    wait_for_death(connection);
  }
  wait_for_hello(connection);
  wait_for_frames(connection);
  shares_.came(connection->user);
  try {
    connections_.emplace(connection->id, connection);
  } catch (...) {
    shares_.went(connection->user, false);
    throw;
  }
  if (auto charged = node_.connected(connection->id, {connection->user, connection->pid}, now_); !charged)
    return charged;
  idle_exit_ = TimePoint::max();
  return {};
}

void AsioServer::wait_for_hello(const ConnectionPtr& connection) {
  connection->hello.expires_after(settings_.hello_timeout);
  connection->hello.async_wait([this, connection](error_code error) {
    // The Hello may have come when the timer had run out already.
    if (error || connection->said_hello) return;
    guarded(connection, [&] {
      cut_off(connection,
              Error(Code::timeout,
                    fmt::format("no Hello came in {} ms", settings_.hello_timeout / std::chrono::milliseconds(1)),
                    "connect with Muster's client library"));
    });
  });
}

}  // namespace musterd
