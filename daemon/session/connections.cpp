// Handles what comes from one client: frames, records and its death, and the end of its connection.
#include <poll.h>

#include <utility>

#include <muster/ipc/socket.hpp>

#include "base/log.hpp"
#include "base/process_state.hpp"
#include "session/asio_server.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
namespace ipc = muster::ipc;

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
    if (error || connection->closing || connection->ending) return;
    guarded(connection, [&] { set_takes_turns(connection, &Connection::has_frames, true); });
  });
}

/// Receives frames for the rest of the process's slice, and at least one.
void AsioServer::receive_some(const ConnectionPtr& connection, Slice& slice) {
  now_ = Clock::now();
  do {
    const bool is_over = connection->closing || connection->ending || connection->cut_off;
    if (is_over || connection->paused) return set_takes_turns(connection, &Connection::has_frames, false);
    if (!is(POLLIN, connection->socket)) {
      set_takes_turns(connection, &Connection::has_frames, false);
      return wait_for_frames(connection);
    }
    // Records that the client wrote before it sent the frame come first, and what it sends after the frame comes later.
    // Meanwhile the frame stays in the socket, which has room for only a few.
    if (connection->channel && connection->channel->has_submissions()) {
      set_takes_turns(connection, &Connection::has_frames, false);
      return after_ring(connection, [this, connection] {
        if (connection->closing || connection->ending) return;
        receive(connection);
        if (!connection->closing && !connection->ending && !connection->paused) wait_for_frames(connection);
      });
    }
    receive(connection);
    slice.spend(Slice::Cost::any);
  } while (slice.lasts());
}

/// Receives the frame that has come.
void AsioServer::receive(const ConnectionPtr& connection) {
  const Borrowed socket(connection->socket.native_handle());
  ipc::Packet packet;
  const auto received = effort_.measure(connection->effort, KernelEffort::Of::receiving,
                                        [&] { return ipc::receive_packet(socket.fd, packet, ipc::Sender::client); });
  if (is_too_much(connection)) return;
  if (!received) return cut_off(connection, received.error());
  if (*received == ipc::Received::closed) return ended(connection, "closed its connection");
  if (*received == ipc::Received::would_block) return;
  take_frame(connection, packet.bytes);
}

void AsioServer::take_frame(const ConnectionPtr& connection, std::span<const std::byte> frame) {
  node_.frame(connection->id, frame, now_);
  // A client that doesn't read its replies gets no more of them, so that unsent frames stay bounded.
  if (!connection->closing && !connection->unsent.empty()) connection->paused = true;
}

void AsioServer::wait_for_doorbell(const ConnectionPtr& connection) {
  connection->doorbell.async_wait(readable, [this, connection](error_code error) {
    if (error || connection->closing) return;
    guarded(connection, [&] {
      effort_.watch(connection->effort, KernelEffort::Of::doorbell, [&] { connection->channel->clear_doorbell(); });
      if (is_too_much(connection)) return;
      set_polled(connection);
      // The client may ring because it has made room in its completion ring.
      set_dirty(connection);
      wait_for_doorbell(connection);
    });
  });
}

void AsioServer::wait_for_death(const ConnectionPtr& connection) {
  connection->process.async_wait(readable, [this, connection](error_code error) {
    if (error || connection->closing) return;
    guarded(connection, [&] {
      if (is(POLLIN, connection->process)) ended(connection, "died");
      else wait_for_death(connection);
    });
  });
}

namespace {

bool is_quick(const ipc::Record& record) {
  constexpr std::size_t small_bytes = 512;
  const auto type = static_cast<ipc::SubmissionType>(record.type);
  return record.body.size() <= small_bytes && type != ipc::SubmissionType::contribute &&
         type != ipc::SubmissionType::combine;
}

}  // namespace

/// Reads records for the rest of the process's slice.
void AsioServer::read_ring(const ConnectionPtr& connection, Slice& slice) {
  while (!connection->closing) {
    auto record = connection->channel->next();
    if (!record) return cut_off(connection, record.error());
    if (!*record) break;
    node_.record(connection->id, static_cast<ipc::SubmissionType>((*record)->type), (*record)->body, now_);
    slice.spend(is_quick(**record) ? Slice::Cost::quick : Slice::Cost::any);
    if (connection->closing || !connection->channel->has_submissions()) break;
    if (!slice.lasts()) break;
  }
  run_behind(connection, slice);
}

/// Runs the work that is due behind the ring. The rest waits for the connection's next turn.
void AsioServer::run_behind(const ConnectionPtr& connection, Slice& slice) {
  const auto is_due = [&](const Connection::Behind& first) {
    return !connection->channel || !connection->channel->has_submissions() ||
           connection->channel->read() >= first.position;
  };
  while (!connection->closing && !connection->behind.empty() && is_due(connection->behind.front())) {
    const auto then = std::move(connection->behind.front().then);
    connection->behind.pop_front();
    then();
    slice.spend(Slice::Cost::any);
    if (!slice.lasts()) break;
  }
  if (connection->has_answers && connection->behind.empty())
    set_takes_turns(connection, &Connection::has_answers, false);
}

namespace {

/// Whether the client has published something that has not been handled.
bool is_behind(const Connection& connection) {
  return connection.channel && !connection.closing &&
         (!connection.behind.empty() || connection.channel->has_submissions());
}

}  // namespace

bool AsioServer::after_ring(ClientId client, ClientId asks, std::function<void()> then) {
  const auto connection = find(client);
  if (!connection || !is_behind(*connection)) return true;
  if (client == asks) after_ring(connection, std::move(then));
  else after_ring(connection, [this, asks, then = std::move(then)]() mutable { in_turn_of(asks, std::move(then)); });
  return false;
}

void AsioServer::after_ring(const ConnectionPtr& connection, std::function<void()> then) {
  if (!is_behind(*connection)) return then();
  connection->behind.push_back({connection->channel->published(), std::move(then)});
  set_polled(connection);
}

/// Runs `then` in a turn of the client that asked for it. If there is no memory for that, the client is cut off, as it
/// would wait in vain.
void AsioServer::in_turn_of(ClientId client, std::function<void()> then) {
  const auto connection = find(client);
  if (!connection || connection->closing) return;
  guarded(connection, [&] {
    connection->behind.push_back({0, std::move(then)});
    if (connection->channel) set_polled(connection);
    else set_takes_turns(connection, &Connection::has_answers, true);
  });
}

void AsioServer::ended(const ConnectionPtr& connection, const std::string& as_seen) {
  now_ = Clock::now();
  if (std::exchange(connection->ending, true)) return;
  // When a process dies, its socket closes before the process ends.
  const std::string how = how_it_ends(connection->pid, connection->process.native_handle()).value_or(as_seen);
  // What the client had published before its end still counts.
  after_ring(connection, [this, connection, how] {
    if (connection->closing) return;
    log_limited(LogLevel::info, "ended", "client {} {}", connection->id.value, how);
    auto charges = node_.disconnected(connection->id, how, now_);
    if (!connections_.contains(connection->id)) return;  // the node had to try twice, and has closed it already
    connection->charges = std::move(charges);
    drop(connection);
  });
}

void AsioServer::close(ClientId client, const std::string& why, ConnectionCharges charges) {
  log_limited(LogLevel::warning, "close", "closed the connection of client {}, {}", client.value, why);
  const auto connection = find(client);
  if (!connection) return;
  connection->closing = true;
  connection->charges = std::move(charges);
  guarded(connection, [&] { flush_socket(connection); });
  // What doesn't fit into the socket now is dropped, as the client doesn't read.
  drop(connection);
}

/// Takes no memory: give_back() does the work that does. A second call has nothing to do.
void AsioServer::drop(const ConnectionPtr& connection) noexcept {
  auto left = connections_.extract(connection->id);
  if (left.empty()) return;
  leaving_.insert(std::move(left));
  shares_.went(connection->user, connection->said_hello);
  connection->closing = true;
  forget_unsent(*connection);
  if (connection->takes_turns()) rounds_.remove(connection);
  connection->polled = connection->has_frames = connection->has_answers = false;
  error_code ignored;
  connection->hello.cancel();
  connection->again.cancel();
  if (connection->socket.is_open()) connection->left.reset(connection->socket.release());
  connection->process.close(ignored);
  connection->doorbell.close(ignored);
  connection->backlog.reset();
  if (stopping_) return finish_stop();
  if (connections_.empty()) wait_for_idle_exit();
}

/// Gives back what is left of connections that have ended. No record of theirs is being handled when this is called.
void AsioServer::give_back() noexcept {
  if ((leaving_.empty() && loose_lines_.empty()) || !giving_back_.may(now_)) return;
  try {
    for (; !leaving_.empty(); leaving_.erase(leaving_.begin())) give_back(*leaving_.begin()->second);
    while (!loose_lines_.empty()) {
      const auto [heir, line] = *loose_lines_.begin();
      if (line->left) lifeline_ended(heir, *line), loose_lines_.erase(heir);
      else wait_for_lifeline(heir, line), lifelines_.insert(loose_lines_.extract(heir));
    }
    giving_back_.succeeded();
  } catch (const std::exception&) {
    giving_back_.failed(Clock::now());
  }
}

/// If it throws, it is called again and goes on.
void AsioServer::give_back(Connection& connection) {
  using Of = BlockingPool::Source::Of;
  if (connection.left)
    close_elsewhere(connection.left, source_of(connection, Of::closing), connection.charges.descriptors);
  if (connection.channel) {
    // Unmapping rings can take as long as their client likes. It comes after their sealing, if that still waits.
    struct Rings {
      std::shared_ptr<Channel> channel;
      RingCharges charges;
    };
    Rings rings{std::move(connection.channel), std::move(connection.charges.rings)};
    try {
      blocking_.run_with(
          source_of(connection, Of::requests), rings, [](Rings& held) { held.channel.reset(); },
          [this](Rings& held) {
            held.charges = {};
            node_.disposed(Clock::now());
          });
    } catch (...) {
      connection.channel = std::move(rings.channel);
      connection.charges.rings = std::move(rings.charges);
      throw;
    }
  }
  // Others may wait for what the client had published. Nothing more comes from it, so they go on.
  for (auto& behind = connection.behind; !behind.empty(); behind.pop_front())
    later_.add(std::move(behind.front().then));
}

void AsioServer::flush_socket(const ConnectionPtr& connection) {
  if (connection->effort.too_much) forget_unsent(*connection);
  while (!connection->unsent.empty()) {
    std::vector<int> fds;
    for (const auto& fd : connection->unsent.front().fds) fds.push_back(fd.get());
    auto sent = send_packet(connection, connection->unsent.front().frame, fds);
    if (is_too_much(connection)) forget_unsent(*connection);
    if (connection->unsent.empty()) break;
    if (!sent && !may_send_later(connection, sent.error())) {
      forget_unsent(*connection);
      break;
    }
    if (!sent) return charge_replies(connection);
    connection->refused = 0;
    if (!*sent) {
      charge_replies(connection);
      if (connection->sending) return;
      connection->socket.async_wait(Descriptor::wait_write, [this, connection](error_code error) {
        connection->sending = false;
        if (!error) guarded(connection, [&] { flush_socket(connection); });
      });
      connection->sending = true;
      return;
    }
    connection->unsent_bytes -= connection->unsent.front().bytes();
    connection->unsent.pop_front();
  }
  charge_replies(connection);
  if (connection->closing) {
    drop(connection);
  } else if (std::exchange(connection->paused, false)) {
    wait_for_frames(connection);
  }
}

void AsioServer::forget_unsent(Connection& connection) {
  connection.unsent.clear();
  connection.unsent_bytes = 0;
  connection.replies.reset();
}

/// Tries again in a moment, as the system may have room then. After too many attempts the client is cut off, so that it
/// does not wait in vain for its reply.
bool AsioServer::may_send_later(const ConnectionPtr& connection, const Error& error) {
  constexpr auto pause = std::chrono::milliseconds(10);
  constexpr int refused_max = 500;
  if (error.code() == Code::daemon_unavailable || connection->closing) return false;
  if (++connection->refused > refused_max) {
    cut_off(connection, error);
    return false;
  }
  connection->again.expires_after(pause);
  connection->again.async_wait([this, connection](error_code failed) {
    if (!failed) guarded(connection, [&] { flush_socket(connection); });
  });
  return true;
}

}  // namespace musterd
