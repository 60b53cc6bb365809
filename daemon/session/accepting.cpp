// Who connects, and who is refused: also when descriptors have run out.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <optional>

#include <muster/ipc/socket.hpp>

#include "base/log.hpp"
#include "session/asio_server.hpp"
#include "session/frames.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
namespace ipc = muster::ipc;

Error out_of_descriptors() {
  return {Code::quota_exceeded, "the daemon is out of file descriptors",
          "raise its limit (ulimit -n) or end some clients"};
}

namespace {

using Of = BlockingPool::Lane::Of;

/// Who is at the other end; nobody can tell of one that has none.
std::optional<ucred> peer_of(const ipc::Fd& socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return {};
  return credentials;
}

/// Of a process that the daemon can't see (0) each connection counts as one; before it has a number, all of them.
BlockingPool::Lane lane_of(Of of, UserId user, std::int32_t pid, std::uint32_t client = 0) {
  constexpr std::uint64_t unseen = std::uint64_t{1} << 32;
  return {of, user, pid != 0 ? static_cast<std::uint64_t>(pid) : unseen + client};
}

}  // namespace

BlockingPool::Lane AsioServer::lane_of(const Connection& connection, Of of) {
  return musterd::lane_of(of, connection.user, connection.pid, connection.id.value);
}

void AsioServer::wait_for_connections() {
  listener_.async_wait(readable, [this](error_code error) {
    if (error || stopping_) return;
    accept_some();
  });
}

void AsioServer::accept_some() {
  if (accept_waiting()) wait_for_connections();
}

bool AsioServer::accept_waiting() {
  constexpr int connections_per_turn = 32;
  for (int i = 0; i < connections_per_turn; ++i) {
    ipc::Fd socket(::accept4(listener_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket) {
      adopt(std::move(socket));
      continue;
    }
    if (errno == EMFILE || errno == ENFILE) {
      // Others wait in line until there is one to refuse the next with.
      refuse_one();
      constexpr auto pause = std::chrono::milliseconds(50);
      accept_again_.expires_after(pause);
      wait_to_accept_again();
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
  ipc::Fd socket(::accept4(listener_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) return take_spare();
  const auto peer = peer_of(socket).value_or(ucred{});
  refuse(std::move(socket), musterd::lane_of(Of::closing, peer.uid, peer.pid), out_of_descriptors(),
         [this, take_spare] {
           take_spare();
           // It goes on at once, as if the pause were over.
           accept_again_.expires_after(Duration(0));
           wait_to_accept_again();
         });
}

void AsioServer::wait_to_accept_again() {
  accept_again_.async_wait([this](error_code error) {
    if (!error && !stopping_) accept_some();
  });
}

void AsioServer::refuse(ipc::Fd socket, BlockingPool::Lane lane, const Error& why, std::function<void()> then) {
  static_cast<void>(ipc::send_packet(socket, frames::goodbye(why), {}));
  close_elsewhere(std::move(socket), lane, {}, std::move(then));
  log_limited(LogLevel::warning, "refuse", "refused a connection: {}", why.describe());
}

void AsioServer::close_elsewhere(ipc::Fd socket, BlockingPool::Lane lane, Charge descriptors,
                                 std::function<void()> then) {
  const auto held = std::make_shared<Charge>(std::move(descriptors));
  blocking_.run(
      lane, [socket = std::make_shared<ipc::Fd>(std::move(socket))] { socket->reset(); },
      [held, then = std::move(then)] {
        held->reset();
        if (then) then();
      });
}

/// Numbers come around after four billion connections; those of life lines are apart.
ClientId AsioServer::next_client() {
  do last_client_ = (last_client_ + 1) % first_heir;
  while (last_client_ == 0 || connections_.contains(ClientId{last_client_}));
  return ClientId{last_client_};
}

void AsioServer::adopt(ipc::Fd socket) {
  const auto peer = peer_of(socket);
  if (!peer) return close_elsewhere(std::move(socket), musterd::lane_of(Of::closing, settings_.node.user, 0), {});
  const ucred& credentials = *peer;
  const auto closing = musterd::lane_of(Of::closing, credentials.uid, credentials.pid);
  if (auto room = crowd_.has_room_for(credentials.uid); !room) return refuse(std::move(socket), closing, room.error());
  ipc::Fd process(static_cast<int>(::syscall(SYS_pidfd_open, credentials.pid, 0)));
  if (!process && (errno == EMFILE || errno == ENFILE)) return refuse(std::move(socket), closing, out_of_descriptors());
  const ClientId id = next_client();
  auto connection = std::make_shared<Connection>(io_, id, socket.release());
  connection->user = credentials.uid;
  connection->pid = credentials.pid;
  connection->lane = rounds_.lane_of(credentials.uid, credentials.pid, now_);
  if (auto charged = node_.connected(id, {credentials.uid, credentials.pid}, now_); !charged)
    return refuse(ipc::Fd(connection->socket.release()), closing, charged.error());
  connections_.emplace(id, connection);
  crowd_.came(connection->user);
  // Without a pidfd (a process that is gone already, or of another pid namespace) the socket's end has to do.
  if (process) {
    connection->process.assign(process.release());
    wait_for_death(connection);
  }
  connection->hello.expires_after(settings_.hello_timeout);
  connection->hello.async_wait([this, connection](error_code error) {
    // It may have come when the timer had run out already.
    if (error || connection->said_hello) return;
    node_.violated(
        connection->id,
        Error(Code::timeout,
              "no Hello came in " + std::to_string(settings_.hello_timeout / std::chrono::milliseconds(1)) + " ms",
              "connect with Muster's client library"),
        Clock::now());
  });
  wait_for_frames(connection);
  idle_.cancel();
}

}  // namespace musterd
