// The socket: frames out, packets in. What they say is others' business.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/socket.hpp>
#include <muster/result.hpp>

#include "base/ordered_mutex.hpp"

namespace muster::detail {

class Exchange {
 public:
  explicit Exchange(ipc::Fd socket) : socket_(std::move(socket)) {}

  /// False: there is no room now. What could not be told before goes first.
  [[nodiscard]] Result<bool> try_send(std::span<const std::byte> frame);
  /// Sends it, or keeps it until there is room for it.
  void tell(std::vector<std::byte> frame);
  /// Sends what there was no room for, if there is some now.
  void send_untold() {
    if (has_untold_) static_cast<void>(try_send({}));
  }

  enum class Received : std::uint8_t { nothing, some, closed };
  /// Takes all that is there, and waits that long for the first. One thread at a time.
  [[nodiscard]] Result<Received> receive(std::chrono::milliseconds timeout,
                                         const std::function<void(ipc::Packet)>& take);

  /// Each waits a moment for it.
  void await_room() const;
  void await_packet() const;
  [[nodiscard]] bool has_hung_up() const;
  [[nodiscard]] int fd() const { return socket_.get(); }

  void lock_for_fork() { mutex_.lock_for_fork(); }
  void unlock_after_fork() { mutex_.unlock_after_fork(); }
  /// In a forked child.
  void inherit() { socket_.reset(); }

 private:
  [[nodiscard]] Result<bool> send_untold_first();

  ipc::Fd socket_;
  ipc::Packet incoming_;  ///< of the thread that receives
  OrderedMutex mutex_{Rank::socket};
  std::deque<std::vector<std::byte>> untold_;  ///< guarded by mutex_
  std::atomic<bool> has_untold_{false};
};

}  // namespace muster::detail
