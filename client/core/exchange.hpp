// The socket: sends frames and receives packets. Others interpret them.
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
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;
  /// Closes the socket, unless the process ends (base/process_end.hpp).
  ~Exchange();

  /// First sends the frames that found no room before. Returns false if there is no room now.
  [[nodiscard]] Result<bool> try_send(std::span<const std::byte> frame);
  /// Sends the frame, or keeps it until there is room.
  void tell(std::vector<std::byte> frame);
  /// Sends the frames that found no room before, if there is room now.
  void send_untold() {
    if (has_untold_) static_cast<void>(try_send({}));
  }

  enum class Received : std::uint8_t { nothing, some, closed };
  /// Takes all packets that are there, and waits up to `timeout` for the first. Only one thread at a time may call
  /// this.
  [[nodiscard]] Result<Received> receive(std::chrono::milliseconds timeout,
                                         const std::function<void(ipc::Packet)>& take);

  /// Both wait a moment.
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
  ipc::Packet incoming_;  ///< used by the thread that receives
  OrderedMutex mutex_{Rank::socket};
  std::deque<std::vector<std::byte>> untold_;  ///< guarded by mutex_
  std::atomic<bool> has_untold_{false};
};

}  // namespace muster::detail
