#include "socket.hpp"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>

namespace fake_nccl {
namespace {

constexpr int look_again_ms = 2;

sockaddr_un name_of(const Address& address) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path + 1, address.data(), address.size());
  return name;
}

Socket make(int device) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  require(fd >= 0, ncclSystemError, "Call to socket failed");
  return {fd, device};
}

}  // namespace

Socket::Socket(int fd, int device) : fd_(fd), device_(device) {
  if (device != uncounted) counted_ = std::make_unique<Counted>(device, "nccl_sockets");
}

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(device_, other.device_);
  std::swap(counted_, other.counted_);
  return *this;
}

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

Socket Socket::listen(int device, Address& address) {
  auto socket = make(device);
  std::uint64_t random = 0;
  require(::getrandom(&random, sizeof(random), 0) == sizeof(random), ncclSystemError, "Call to getrandom failed");
  std::snprintf(address.data(), address.size(), "muster-fake-nccl-%d-%llx", ::getpid(),
                static_cast<unsigned long long>(random));
  const auto name = name_of(address);
  constexpr int backlog = 128;
  const bool listens = ::bind(socket.fd(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0 &&
                       ::listen(socket.fd(), backlog) == 0;
  require(listens, ncclSystemError, "Call to bind or listen failed");
  return socket;
}

Socket Socket::connect(int device, const Address& address) {
  auto socket = make(device);
  const auto name = name_of(address);
  const bool connected = ::connect(socket.fd(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0;
  require(connected, ncclRemoteError, "Connect to " + std::string(address.data()) + " failed: nobody listens");
  return socket;
}

void Socket::wait_readable(const GiveUp& give_up) const {
  pollfd entry{fd_, POLLIN, 0};
  while (::poll(&entry, 1, look_again_ms) <= 0)
    require(!give_up(), ncclInternalError, "a wait for another rank was aborted");
}

Socket Socket::accept(const GiveUp& give_up) const {
  wait_readable(give_up);
  const int fd = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
  require(fd >= 0, ncclSystemError, "Call to accept failed");
  return {fd, device_};
}

bool Socket::send(const void* bytes, std::size_t size) const {
  return ::send(fd_, bytes, size, MSG_NOSIGNAL) == static_cast<ssize_t>(size);
}

bool Socket::receive(void* bytes, std::size_t size, const GiveUp& give_up) const {
  auto* to = static_cast<char*>(bytes);
  while (size > 0) {
    wait_readable(give_up);
    const auto got = ::recv(fd_, to, size, 0);
    if (got <= 0) return false;
    to += got;
    size -= static_cast<std::size_t>(got);
  }
  return true;
}

}  // namespace fake_nccl
