// What comes from one client, frames and records and its death, and how its connection ends.
#include <poll.h>

#include <boost/asio/post.hpp>
#include <utility>

#include <muster/ipc/socket.hpp>

#include "base/log.hpp"
#include "session/asio_server.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
namespace ipc = muster::ipc;

namespace {

constexpr int packets_per_turn = 16;

}  // namespace

bool is(short events, Descriptor& descriptor) {
  pollfd polled{descriptor.native_handle(), events, 0};
  return ::poll(&polled, 1, 0) > 0 && (polled.revents & events) != 0;
}

ConnectionPtr AsioServer::find(ClientId client) const {
  auto found = connections_.find(client);
  return found == connections_.end() ? nullptr : found->second;
}

void AsioServer::wait_for_frames(const ConnectionPtr& connection) {
  connection->socket.async_wait(readable, [this, connection](error_code error) {
    if (error || connection->closing) return;
    try {
      receive_some(connection);
    } catch (const std::bad_alloc&) {
      // A frame may be larger than all that is left.
      node_.violated(connection->id, Node::no_heap(), now_);
    }
  });
}

void AsioServer::receive_some(const ConnectionPtr& connection) {
  now_ = Clock::now();
  const Borrowed socket(connection->socket.native_handle());
  for (int i = 0; i < packets_per_turn && !connection->closing; ++i) {
    ipc::Packet packet;
    auto received = ipc::receive_packet(socket.fd, packet, ipc::Sender::client);
    if (!received) return node_.violated(connection->id, received.error(), now_);
    if (*received == ipc::Received::closed) return ended(connection, "closed its connection");
    if (*received == ipc::Received::would_block) break;
    // What the client put into its ring before it sent this comes first.
    read_ring_once(connection);
    if (connection->closing) return;
    node_.frame(connection->id, packet.bytes, now_);
    // Who doesn't read its replies gets no more of them: what is unsent stays bounded.
    if (!connection->closing && !connection->unsent.empty()) {
      connection->paused = true;
      return;
    }
  }
  if (!connection->closing) wait_for_frames(connection);
}

void AsioServer::wait_for_doorbell(const ConnectionPtr& connection) {
  connection->doorbell.async_wait(readable, [this, connection](error_code error) {
    if (error || connection->closing) return;
    connection->channel->clear_doorbell();
    set_polled(connection, true);
    // It may be ringing because it made room in its completion ring.
    if (!connection->dirty) {
      connection->dirty = true;
      dirty_.push_back(connection);
    }
    wait_for_doorbell(connection);
  });
}

void AsioServer::wait_for_death(const ConnectionPtr& connection) {
  connection->process.async_wait(readable, [this, connection](error_code error) {
    if (error || connection->closing) return;
    if (is(POLLIN, connection->process)) ended(connection, "died");
    else wait_for_death(connection);
  });
}

bool AsioServer::read_ring(const ConnectionPtr& connection, int records_max) {
  for (int i = 0; i < records_max; ++i) {
    if (connection->closing) return true;
    auto record = connection->channel->next();
    if (!record) {
      node_.violated(connection->id, record.error(), now_);
      return true;
    }
    if (!*record) return i > 0;
    node_.record(connection->id, static_cast<ipc::SubmissionType>((*record)->type), (*record)->body, now_);
  }
  return true;
}

void AsioServer::read_ring_once(const ConnectionPtr& connection) {
  // All that a ring can hold, and not what a client goes on writing meanwhile.
  constexpr int records_max = ipc::ring_bytes / sizeof(ipc::RecordHeader);
  if (connection->channel && connection->channel->has_submissions()) read_ring(connection, records_max);
}

void AsioServer::read_all_rings() {
  std::vector<ConnectionPtr> all;
  for (const auto& [id, connection] : connections_) all.push_back(connection);
  for (const auto& connection : all) read_ring_once(connection);
}

void AsioServer::ended(const ConnectionPtr& connection, const std::string& how) {
  now_ = Clock::now();
  // What it had published before it ended still counts.
  read_ring_once(connection);
  if (connection->closing) return;
  log_limited(LogLevel::info, "ended", "client {} {}", connection->id.value, how);
  connection->descriptors = node_.disconnected(connection->id, how, now_);
  connection->unsent.clear();
  drop(connection);
}

void AsioServer::close(ClientId client, const std::string& why, Charge descriptors) {
  log_limited(LogLevel::warning, "close", "closed the connection of client {}, {}", client.value, why);
  auto connection = find(client);
  if (!connection) return;
  connection->closing = true;
  connection->descriptors = std::move(descriptors);
  flush_socket(connection);
  // What doesn't fit into the socket now is for somebody who doesn't read.
  if (connections_.contains(client)) drop(connection);
}

void AsioServer::drop(const ConnectionPtr& connection) {
  connection->closing = true;
  if (connection->polled) std::erase(polled_, connection);
  connection->polled = false;
  error_code ignored;
  connection->hello.cancel();
  connection->again.cancel();
  if (connection->socket.is_open())
    close_elsewhere(ipc::Fd(connection->socket.release()), connection->user, std::move(connection->descriptors));
  connection->process.close(ignored);
  connection->doorbell.close(ignored);
  connections_.erase(connection->id);
  if (stopping_) return finish_stop();
  if (connections_.empty()) arm_idle_exit();
}

void AsioServer::flush_socket(const ConnectionPtr& connection) {
  const Borrowed socket(connection->socket.native_handle());
  while (!connection->unsent.empty()) {
    std::vector<int> fds;
    for (const auto& fd : connection->unsent.front().fds) fds.push_back(fd.get());
    auto sent = ipc::send_packet(socket.fd, connection->unsent.front().frame, fds);
    if (!sent && !may_send_later(connection, sent.error())) {
      connection->unsent.clear();
      break;
    }
    if (!sent) return;
    connection->refused = 0;
    if (!*sent) {
      if (connection->sending) return;
      connection->sending = true;
      connection->socket.async_wait(Descriptor::wait_write, [this, connection](error_code error) {
        connection->sending = false;
        if (!error) flush_socket(connection);
      });
      return;
    }
    connection->unsent.pop_front();
  }
  if (connection->closing) {
    if (connections_.contains(connection->id)) drop(connection);
  } else if (std::exchange(connection->paused, false)) {
    wait_for_frames(connection);
  }
}

/// The system may have room for it soon. A client that would wait in vain for a reply is told so by its end.
bool AsioServer::may_send_later(const ConnectionPtr& connection, const Error& error) {
  constexpr auto pause = std::chrono::milliseconds(10);
  constexpr int refused_max = 500;
  if (error.code() == Code::daemon_unavailable || connection->closing) return false;
  if (++connection->refused > refused_max) {
    asio::post(io_, [this, id = connection->id, error] { node_.violated(id, error, now_); });
    return false;
  }
  connection->again.expires_after(pause);
  connection->again.async_wait([this, connection](error_code failed) {
    if (!failed) flush_socket(connection);
  });
  return true;
}

}  // namespace musterd
