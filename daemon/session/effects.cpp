// What the node wants done: frames and records for clients, life lines, jobs, random numbers.
#include <fcntl.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <boost/asio/post.hpp>

#include <muster/ipc/socket.hpp>

#include "base/assert.hpp"
#include "base/log.hpp"
#include "session/asio_server.hpp"

namespace musterd {

using muster::Result;
namespace ipc = muster::ipc;

namespace {

constexpr std::size_t unsent_frames_max = 1024;

}  // namespace

void AsioServer::send(ClientId client, std::span<const std::byte> frame, std::span<const int> fds) {
  auto connection = find(client);
  if (!connection || connection->closing) return;
  if (connection->unsent.empty()) {
    const Borrowed socket(connection->socket.native_handle());
    auto sent = ipc::send_packet(socket.fd, frame, fds);
    if (!sent) return unsendable(connection, sent.error());
    if (*sent) return;
  }
  if (connection->unsent.size() >= unsent_frames_max) {
    // More than its requests may be. Telling the node now could end the client in the middle of what it does for it.
    asio::post(io_, [this, client] {
      node_.violated(client,
                     muster::Error(muster::Code::quota_exceeded, "the client doesn't read its replies: " +
                                                                     std::to_string(unsent_frames_max) + " wait"),
                     now_);
    });
    return;
  }
  Unsent unsent{{frame.begin(), frame.end()}, {}};
  for (const int fd : fds) {
    unsent.fds.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!unsent.fds.back()) return unsendable(connection, out_of_descriptors());
  }
  connection->unsent.push_back(std::move(unsent));
  flush_socket(connection);
}

void AsioServer::greeted(ClientId client) {
  auto connection = find(client);
  if (!connection) return;
  connection->said_hello = true;
  connection->hello.cancel();
}

void AsioServer::welcome(ClientId client, std::span<const std::byte> frame) {
  auto connection = find(client);
  MUSTER_ASSERT(connection && !connection->channel, "a client is welcomed once");
  auto channel = Channel::create();
  if (!channel) {
    log_limited(LogLevel::warning, "channel", "no channel for client {}: {}", client.value, channel.error().describe());
    node_.violated(client, channel.error(), now_);
    return;
  }
  ipc::Fd doorbell(::fcntl((*channel)->doorbell(), F_DUPFD_CLOEXEC, 0));
  if (!doorbell) return node_.violated(client, out_of_descriptors(), now_);
  connection->channel = std::move(*channel);
  connection->doorbell.assign(doorbell.release());
  wait_for_doorbell(connection);
  send(client, frame, connection->channel->descriptors());
}

void AsioServer::complete(ClientId client, ipc::CompletionType type, std::span<const std::byte> body) {
  auto connection = find(client);
  if (!connection || !connection->channel || connection->closing) return;
  Result<void> queued;
  try {
    queued = connection->channel->complete(type, body);
  } catch (const std::bad_alloc&) {
    // It would wait in vain for what can't be kept for it, and others' outcomes must go out all the same.
    queued = Node::no_heap();
  }
  if (!queued) {
    // Telling the node now could end the client in the middle of what it does for it.
    asio::post(io_, [this, client, error = queued.error()] { node_.violated(client, error, now_); });
    return;
  }
  // Those who poll go on while the daemon still has others to tell.
  connection->channel->publish();
  if (connection->dirty) return;
  connection->dirty = true;
  dirty_.push_back(std::move(connection));
}

Result<ipc::Fd> AsioServer::watch_lifeline(ClientId heir) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) return out_of_descriptors();
  ipc::Fd other(pair[1]);
  const auto line = std::make_shared<Descriptor>(io_, pair[0]);
  lifelines_.emplace(heir, line);
  wait_for_lifeline(heir, line);
  return other;
}

void AsioServer::wait_for_lifeline(ClientId heir, const std::shared_ptr<Descriptor>& line) {
  line->async_wait(readable, [this, heir, line](error_code error) {
    if (error) return;
    if (!is_readable(*line)) return wait_for_lifeline(heir, line);
    lifelines_.erase(heir);
    node_.lifeline_closed(heir, Clock::now());
  });
}

void AsioServer::run(Job job) {
  ++jobs_;
  job.done = [this, done = std::move(job.done)] {
    --jobs_;
    done();
  };
  engine_.submit(std::move(job));
}

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
