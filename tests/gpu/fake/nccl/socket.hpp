// Sockets between ranks: Unix sockets with abstract names, in the books.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "device.hpp"

namespace fake_nccl {

/// A name that no other process takes.
using Address = std::array<char, 64>;
/// Whether to give up: asked every few milliseconds.
using GiveUp = std::function<bool()>;

/// Instead of a device: a socket that isn't in the books.
constexpr int uncounted = -1;

class Socket {
 public:
  Socket() = default;
  Socket(int fd, int device);
  Socket(Socket&& other) noexcept { *this = std::move(other); }
  Socket& operator=(Socket&& other) noexcept;
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket();

  static Socket listen(int device, Address& address);
  /// Throws ncclRemoteError if nobody listens there.
  static Socket connect(int device, const Address& address);
  /// Throws ncclInternalError when it gives up.
  [[nodiscard]] Socket accept(const GiveUp& give_up) const;

  [[nodiscard]] int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  /// Sends a few bytes. False if the other side has gone.
  [[nodiscard]] bool send(const void* bytes, std::size_t size) const;
  /// Receives exactly so many bytes. False if the other side has gone. Throws when it gives up.
  [[nodiscard]] bool receive(void* bytes, std::size_t size, const GiveUp& give_up) const;

 private:
  void wait_readable(const GiveUp& give_up) const;

  int fd_ = -1;
  int device_ = uncounted;
  std::unique_ptr<Counted> counted_;
};

}  // namespace fake_nccl
