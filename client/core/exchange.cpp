#include "exchange.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <mutex>
#include <utility>

#include "base/interrupted.hpp"
#include "base/process_end.hpp"

namespace muster::detail {

namespace {

bool await(const ipc::Fd& socket, short what, std::chrono::milliseconds timeout) {
  pollfd waiting{socket.get(), what, 0};
  return ::poll(&waiting, 1, static_cast<int>(timeout.count())) > 0;
}

}  // namespace

Exchange::~Exchange() {
  if (process_is_ending()) static_cast<void>(socket_.release());
}

Result<bool> Exchange::send_untold_first() {
  while (!untold_.empty()) {
    auto sent = ipc::send_packet(socket_, untold_.front(), {});
    if (!sent || !*sent) return sent;
    untold_.pop_front();
    has_untold_ = !untold_.empty();
  }
  return true;
}

Result<bool> Exchange::try_send(std::span<const std::byte> frame) {
  const std::lock_guard lock(mutex_);
  auto sent = send_untold_first();
  if (!sent || !*sent || frame.empty()) return sent;
  return ipc::send_packet(socket_, frame, {});
}

void Exchange::tell(std::vector<std::byte> frame) {
  const std::lock_guard lock(mutex_);
  auto sent = send_untold_first();
  if (sent && *sent) sent = ipc::send_packet(socket_, frame, {});
  if (!sent || *sent) return;
  untold_.push_back(std::move(frame));
  has_untold_ = true;
}

Result<Exchange::Received> Exchange::receive(std::chrono::milliseconds timeout,
                                             const std::function<void(ipc::Packet)>& take) {
  if (!await(socket_, POLLIN, timeout)) return Received::nothing;
  for (;;) {
    auto received = ipc::receive_packet(socket_, incoming_);
    if (!received) return received.error();
    if (*received == ipc::Received::would_block) return Received::some;
    if (*received == ipc::Received::closed) return Received::closed;
    take(std::exchange(incoming_, {}));
  }
}

void Exchange::await_room() const { await(socket_, POLLOUT, look_up_interval); }
void Exchange::await_packet() const { await(socket_, POLLIN, look_up_interval); }
bool Exchange::has_hung_up() const { return await(socket_, POLLRDHUP, std::chrono::milliseconds(0)); }

}  // namespace muster::detail
