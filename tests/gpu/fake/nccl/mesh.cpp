#include "mesh.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

namespace fake_nccl {
namespace {

struct Header {
  std::uint64_t payload = 0;
  Signature signature;
  Topic topic = Topic::control;
  std::uint32_t unused = 0;
};

Bytes pack(const Frame& frame) {
  const Header header{frame.payload.size(), frame.signature, frame.topic, 0};
  Bytes bytes(sizeof(header) + frame.payload.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::copy(frame.payload.begin(), frame.payload.end(), bytes.begin() + sizeof(header));
  return bytes;
}

}  // namespace

Mesh::Mesh(int rank, std::vector<Socket> sockets, int device)
    : rank_(rank),
      links_(sockets.size()),
      bell_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      counted_(std::make_unique<Counted>(device, "nccl_threads")) {
  require(bell_ >= 0, ncclSystemError, "Call to eventfd failed");
  for (std::size_t peer = 0; peer < sockets.size(); ++peer) {
    links_[peer].open = static_cast<bool>(sockets[peer]);
    links_[peer].socket = std::move(sockets[peer]);
  }
  thread_ = std::thread([this] { serve(); });
}

Mesh::~Mesh() { close(true); }

void Mesh::wake() {
  const std::scoped_lock lock(mutex_);
  changed_.notify_all();
}

void Mesh::post(int peer, Frame frame) {
  const std::scoped_lock lock(mutex_);
  auto& link = links_.at(static_cast<std::size_t>(peer));
  if (peer == rank_) {
    link.inbox[frame.topic].push_back(std::move(frame));
    changed_.notify_all();
    return;
  }
  if (!link.open || closing_) return;
  link.out.push_back(pack(frame));
  ::eventfd_write(bell_, 1);
}

std::optional<Frame> Mesh::take(int peer, Topic topic, const GiveUp& give_up) {
  std::unique_lock lock(mutex_);
  auto& frames = links_.at(static_cast<std::size_t>(peer)).inbox[topic];
  while (frames.empty()) {
    lock.unlock();
    const bool over = give_up();
    lock.lock();
    if (!frames.empty()) break;
    if (over) return std::nullopt;
    changed_.wait_for(lock, std::chrono::milliseconds(2));
  }
  auto frame = std::move(frames.front());
  frames.pop_front();
  return frame;
}

bool Mesh::lost(int peer) const {
  const std::scoped_lock lock(mutex_);
  return links_.at(static_cast<std::size_t>(peer)).lost;
}

void Mesh::close(bool at_once) {
  {
    const std::scoped_lock lock(mutex_);
    closing_ = true;
    at_once_ = at_once_ || at_once;
    if (bell_ >= 0) ::eventfd_write(bell_, 1);
  }
  if (!thread_.joinable()) return;
  thread_.join();
  const std::scoped_lock lock(mutex_);
  for (auto& link : links_) link.socket = Socket();
  ::close(std::exchange(bell_, -1));
  counted_.reset();
}

bool Mesh::must_go_on() const {
  if (!closing_) return true;
  if (at_once_) return false;
  return std::any_of(links_.begin(), links_.end(), [](const Link& link) { return link.open && !link.out.empty(); });
}

void Mesh::serve() {
  std::unique_lock lock(mutex_);
  std::vector<pollfd> entries;
  while (must_go_on()) {
    entries.assign(1, {bell_, POLLIN, 0});
    for (const auto& link : links_) {
      const int events = link.out.empty() ? POLLIN : POLLIN | POLLOUT;
      entries.push_back({link.open ? link.socket.fd() : -1, static_cast<short>(events), 0});
    }
    lock.unlock();
    ::poll(entries.data(), entries.size(), -1);
    eventfd_t rung = 0;
    ::eventfd_read(bell_, &rung);
    lock.lock();
    for (std::size_t peer = 0; peer < links_.size(); ++peer) {
      const auto happened = entries[peer + 1].revents;
      if ((happened & POLLOUT) != 0) send_some(links_[peer]);
      if ((happened & (POLLIN | POLLHUP | POLLERR)) != 0 && links_[peer].open) receive_some(links_[peer]);
    }
    changed_.notify_all();
  }
  // What was posted before an abort may have been all that a peer waits for.
  for (auto& link : links_)
    if (link.open) send_some(link);
}

void Mesh::send_some(Link& link) {
  while (!link.out.empty()) {
    const auto& bytes = link.out.front();
    const auto sent =
        ::send(link.socket.fd(), bytes.data() + link.sent, bytes.size() - link.sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EAGAIN) return;
    // What the peer has sent before it went is still to be read, so the end is noticed there.
    if (sent < 0) return link.out.clear();
    link.sent += static_cast<std::size_t>(sent);
    if (link.sent < bytes.size()) return;
    link.sent = 0;
    link.out.pop_front();
  }
}

void Mesh::receive_some(Link& link) {
  std::array<char, 65536> buffer;
  const auto got = ::recv(link.socket.fd(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) return end(link);
  link.in.insert(link.in.end(), buffer.begin(), buffer.begin() + got);
  unpack(link);
}

void Mesh::unpack(Link& link) {
  std::size_t at = 0;
  Header header;
  while (link.in.size() - at >= sizeof(header)) {
    std::memcpy(&header, link.in.data() + at, sizeof(header));
    const auto whole = sizeof(header) + header.payload;
    if (link.in.size() - at < whole) break;
    const auto begin = link.in.begin() + static_cast<std::ptrdiff_t>(at + sizeof(header));
    link.inbox[header.topic].push_back(
        {header.topic, header.signature, Bytes(begin, begin + static_cast<std::ptrdiff_t>(header.payload))});
    link.bye = link.bye || header.topic == Topic::bye;
    at += whole;
  }
  link.in.erase(link.in.begin(), link.in.begin() + static_cast<std::ptrdiff_t>(at));
}

void Mesh::end(Link& link) {
  link.open = false;
  link.lost = !link.bye;
}

}  // namespace fake_nccl
