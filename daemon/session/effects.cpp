// Does what the node asks for: frames and records for clients, life lines, jobs, random numbers.
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <fmt/format.h>

#include <muster/ipc/socket.hpp>

#include "base/assert.hpp"
#include "base/heap_reserve.hpp"
#include "base/log.hpp"
#include "base/process_state.hpp"
#include "session/asio_server.hpp"

namespace musterd {

using muster::Result;
namespace ipc = muster::ipc;

namespace {

constexpr std::size_t unsent_frames_max = 1024;

muster::Error not_sealed(const muster::Error& refused) {
  using muster::Code;
  return {refused.code() == Code::failed ? Code::invalid : refused.code(),
          "the rings can't be sealed: " + refused.message(),
          "add no seals to the daemon's files: connect with Muster's client library"};
}

muster::Error not_read(const char* what, const muster::Error& refused) {
  return {refused.code(), fmt::format("the client doesn't read its {}: {}", what, refused.message()), refused.hint()};
}

}  // namespace

/// Cuts off a client whose calls take too long. It gets no Goodbye, as sending one would take as long.
bool AsioServer::is_too_much(const ConnectionPtr& connection) {
  if (!connection->effort.too_much) return false;
  if (!connection->cut_off)
    cut_off(connection,
            muster::Error(muster::Code::quota_exceeded,
                          "calls of the system for the client take more than 2 ms each: too many watch its socket "
                          "or its bells, or sleep on its ring",
                          "watch each with one epoll set"));
  return true;
}

Result<bool> AsioServer::send_packet(const ConnectionPtr& connection, std::span<const std::byte> frame,
                                     std::span<const int> fds) {
  const Borrowed socket(connection->socket.native_handle());
  return effort_.measure(connection->effort, KernelEffort::Of::sending,
                         [&] { return ipc::send_packet(socket.fd, frame, fds); });
}

/// If a client can't be sent what it waits for, it is cut off.
void AsioServer::send(ClientId client, std::span<const std::byte> frame, std::span<const int> fds) {
  const auto connection = find(client);
  if (!connection || connection->closing || connection->cut_off || connection->effort.too_much) return;
  guarded(connection, [&] { send(connection, frame, fds); });
}

void AsioServer::send(const ConnectionPtr& connection, std::span<const std::byte> frame, std::span<const int> fds) {
  if (connection->unsent.empty() && frame.size() <= ipc::inline_bytes_max) {
    auto sent = send_packet(connection, frame, fds);
    if (is_too_much(connection)) return;
    if (sent && *sent) return charge_replies(connection);
    // wait_for_death() and wait_for_frames() notice the client's end.
    if (!sent && sent.error().code() == muster::Code::daemon_unavailable) return;
  }
  // This is more than the unanswered requests that it may have.
  if (connection->unsent.size() >= unsent_frames_max)
    return cut_off(connection,
                   muster::Error(muster::Code::quota_exceeded,
                                 fmt::format("the client doesn't read its replies: {} wait", unsent_frames_max)));
  std::vector<ipc::Fd> copies;
  for (const int fd : fds) {
    copies.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    // Otherwise the client would wait in vain for a reply.
    if (!copies.back()) return cut_off(connection, out_of_descriptors());
  }
  std::vector<std::vector<std::byte>> packets;
  if (frame.size() <= ipc::inline_bytes_max) packets.emplace_back(frame.begin(), frame.end());
  else packets = ipc::parts_of(frame);
  for (auto& packet : packets) {
    connection->unsent.push_back({std::move(packet), {}});
    connection->unsent_bytes += connection->unsent.back().bytes();
  }
  MUSTER_ASSERT(copies.empty() || packets.size() == 1, "a frame with descriptors is one packet");
  connection->unsent.back().fds = std::move(copies);
  flush_socket(connection);
}

/// Notes that the client has to end. Telling the node now could end the client in the middle of work for it. The client
/// gets nothing more meanwhile. Takes no memory.
void AsioServer::cut_off(const ConnectionPtr& connection, std::optional<muster::Error> because) noexcept {
  if (!connections_.contains(connection->id) || std::exchange(connection->cut_off, true)) return;
  connection->because = std::move(because);
  cut_off_.push_back(connection);
}

/// Ends the clients that were cut off. No work for them is under way here.
void AsioServer::end_cut_off() noexcept {
  while (!cut_off_.empty()) {
    const ConnectionPtr connection = std::move(cut_off_.back());
    cut_off_.pop_back();
    if (!connections_.contains(connection->id)) continue;
    connection->cut_off = false;  // so that the Goodbye goes out
    const auto because = std::exchange(connection->because, std::nullopt);
    if (connection->closing) {
      drop(connection);  // the node has forgotten it
      continue;
    }
    if (connection->takes_turns()) rounds_.remove(connection);
    connection->polled = connection->has_frames = connection->has_answers = false;
    connection->given_up = true;
    node_.violated(connection->id, because ? *because : no_heap(), now_);
  }
}

/// Charges a client for replies that it has not read, be they here or in the kernel. The kernel has to be asked how
/// much it has, which happens after each reply.
void AsioServer::charge_replies(const ConnectionPtr& connection) {
  if (connection->closing) return;
  constexpr std::uint64_t step = 16 << 10;  // the connection's charge covers less than this
  int unread = 0;
  static_cast<void>(::ioctl(connection->socket.native_handle(), SIOCOUTQ, &unread));
  const std::uint64_t bytes = connection->unsent_bytes + static_cast<std::uint64_t>(std::max(unread, 0));
  if (auto charged = node_.charge_heap(connection->id, connection->replies, bytes / step * step); !charged)
    cut_off(connection, not_read("replies", charged.error()));
}

void AsioServer::greeted(ClientId client) {
  auto connection = find(client);
  if (!connection) return;
  if (std::exchange(connection->said_hello, true)) return;
  shares_.greeted(connection->user);
  connection->hello.cancel();
}

Result<void> AsioServer::welcome(ClientId client, std::span<const std::byte> frame) {
  auto connection = find(client);
  MUSTER_ASSERT(connection && !connection->channel, "a client is welcomed once");
  auto channel = Channel::create();
  if (!channel) {
    log_limited(LogLevel::warning, "channel", "can't make a channel for client {}: {}", client.value,
                channel.error().describe());
    return channel.error();
  }
  ipc::Fd doorbell(::fcntl((*channel)->doorbell(), F_DUPFD_CLOEXEC, 0));
  if (!doorbell) return out_of_descriptors();
  const auto descriptors = (*channel)->descriptors();
  if (auto watched = watch(connection->doorbell, doorbell); !watched) return watched;
  connection->channel = std::move(*channel);
  send(client, frame, descriptors);
  connection->channel->handed_over();
  return {};
}

SegmentTable::Sealing AsioServer::seal_rings(ClientId client) {
  const auto connection = find(client);
  MUSTER_ASSERT(connection && connection->channel, "who has rings was welcomed");
  const auto sealed = std::make_shared<Result<void>>(no_heap());
  return {[channel = connection->channel, sealed] { *sealed = channel->seal(); },
          [this, client, sealed]() -> Result<void> {
            const auto mapped = find(client);
            if (!mapped || mapped->closing) return *sealed;
            if (*sealed) open_rings(mapped);
            // The client's rings are of no use any more, and it could punch holes into them.
            else cut_off(mapped, not_sealed(sealed->error()));
            return *sealed;
          }};
}

void AsioServer::open_rings(const ConnectionPtr& connection) {
  connection->channel->open();
  connection->channel->show_memory_wanted(memory_wanted_);
  wait_for_doorbell(connection);
  // The client did not ring for what it wrote before this.
  set_polled(connection);
  set_dirty(connection);
}

/// If a completion can't be kept for a client, the client is cut off, as it would wait in vain. Others get their
/// outcomes all the same.
void AsioServer::complete(ClientId client, ipc::CompletionType type, std::span<const std::byte> body) {
  const auto connection = find(client);
  if (!connection || !connection->channel || connection->closing || connection->cut_off) return;
  guarded(connection, [&] {
    if (auto queued = connection->channel->complete(type, body); !queued) return cut_off(connection, queued.error());
    charge_backlog(connection);
    // Clients that poll go on while the daemon still tells others.
    connection->channel->publish();
    set_dirty(connection);
  });
}

void AsioServer::show_memory_wanted(bool wanted) {
  memory_wanted_ = wanted;
  for (const auto& [client, connection] : connections_)
    if (connection->channel) connection->channel->show_memory_wanted(wanted);
}

void AsioServer::charge_backlog(const ConnectionPtr& connection) {
  constexpr std::uint64_t step = 4096;
  const std::uint64_t bytes = (connection->channel->backlog_bytes() + step - 1) / step * step;
  if (bytes == connection->backlog.amount()) return;
  if (auto charged = node_.charge_heap(connection->id, connection->backlog, bytes); !charged)
    cut_off(connection, not_read("completions", charged.error()));
}

Result<ipc::Fd> AsioServer::watch_lifeline(ClientId client, ClientId heir) {
  const auto connection = find(client);
  MUSTER_ASSERT(connection, "who forks is connected");
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) return out_of_descriptors();
  ipc::Fd own(pair[0]);
  ipc::Fd other(pair[1]);
  // Nobody can leave descriptors in it then. The daemon only needs to know when the other end is closed.
  ::shutdown(own.get(), SHUT_RD);
  const auto line = std::make_shared<LifeLine>(io_, source_of(*connection, BlockingPool::Source::Of::closing));
  if (auto watched = watch(line->socket, own); !watched) return watched.error();
  const auto added = lifelines_.emplace(heir, line).first;
  try {
    wait_for_lifeline(heir, line);
  } catch (...) {
    lifelines_.erase(added);
    throw;
  }
  return other;
}

/// What follows the end of a life line needs memory, so give_back() does it.
void AsioServer::wait_for_lifeline(ClientId heir, const LifeLinePtr& line) {
  line->socket.async_wait(Descriptor::wait_error, [this, heir, line](error_code error) {
    if (error) return;
    if (is(POLLHUP, line->socket)) line->left.reset(line->socket.release());
    loose_lines_.insert(lifelines_.extract(heir));
  });
}

/// The other end may only be shut down, and still have watchers, so closing takes long. The life line stays charged
/// until it is closed.
void AsioServer::lifeline_ended(ClientId heir, LifeLine& line) {
  Charge nothing;
  close_elsewhere(line.left, line.closing, nothing, [this, heir] { node_.lifeline_closed(heir, Clock::now()); });
}

void AsioServer::run_blocking(ClientId client, std::function<void()> work, std::function<void()> then) {
  using Of = BlockingPool::Source::Of;
  constexpr std::uint64_t copying = 1;  // a source beside that for disposals of the same user
  const auto connection = find(client);
  MUSTER_ASSERT(connection || !client, "who asks for something is connected");
  const BlockingPool::Source source = connection ? source_of(*connection, Of::requests)
                                                 : BlockingPool::Source{Of::memory, settings_.node.user, copying};
  blocking_.run(source, std::move(work), std::move(then));
}

void AsioServer::dispose(UserId user, Remains remains, std::function<void()> then) {
  struct Disposal {
    Remains remains;
    std::function<void()> then;
  };
  Disposal disposal{std::move(remains), std::move(then)};
  try {
    blocking_.run_with(
        {BlockingPool::Source::Of::memory, user, 0}, disposal, [](Disposal& held) { held.remains = {}; },
        [this](Disposal& held) {
          held.then();
          node_.disposed(Clock::now());
        });
  } catch (const std::exception&) {
    // There is no memory for doing it elsewhere, and doing it here gives memory back.
    disposal.remains = {};
    disposal.then();
  }
}

bool AsioServer::is_stopped(std::int32_t pid) { return musterd::is_stopped(pid); }

ipc::Capability AsioServer::random_capability() {
  constexpr std::size_t words = 512;
  if (random_.size() < 2) {
    random_.resize(words);
    const auto bytes = words * sizeof(std::uint64_t);
    MUSTER_ASSERT(::getrandom(random_.data(), bytes, 0) == static_cast<ssize_t>(bytes), "the kernel has randomness");
  }
  ipc::Capability capability;
  for (auto& word : capability.bits) {
    word = random_.back();
    random_.pop_back();
  }
  return capability;
}

}  // namespace musterd
