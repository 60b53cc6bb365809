#include "completions.hpp"

#include <sys/epoll.h>

#include <cerrno>
#include <utility>

namespace muster::detail {

Completions::Completions(Channel& channel)
    : channel_(channel),
      ring_(channel.completions(), channel.header().completion_tail, channel.header().completion_head) {}

void Completions::sleep_on(std::chrono::steady_clock::time_point until) {
  ipc::futex_wait(channel_.header().client_sleeps, 1, until - std::chrono::steady_clock::now());
}

void Completions::wake_sleepers() {
  auto& sleeps = channel_.header().client_sleeps;
  if (sleeps.load(std::memory_order_seq_cst) == 0) return;
  sleeps.store(0, std::memory_order_seq_cst);
  ipc::futex_wake_all(sleeps);
}

// ---- event loops ----

Result<int> Completions::event_fd(int socket) {
  const std::lock_guard lock(mutex_);
  if (!events_) {
    auto woken = ipc::create_eventfd();
    if (!woken) return woken.error();
    ipc::Fd events(::epoll_create1(EPOLL_CLOEXEC));
    epoll_event event{};
    event.events = EPOLLIN;
    for (const int fd : {channel_.notify.get(), socket, woken->get()})
      if (!events || ::epoll_ctl(events.get(), EPOLL_CTL_ADD, fd, &event) != 0)
        return ipc::system_error(Code::failed, "can't watch the connection", errno);
    events_ = std::move(events);
    woken_ = std::move(*woken);
  }
  // Signals instead of arming: a record may have come before. The first poll() arms.
  if (!watched_.exchange(true)) ipc::signal(woken_);
  return events_.get();
}

bool Completions::rearm() {
  auto& armed = channel_.header().notify_armed;
  if (armed.load(std::memory_order_seq_cst) != 0) return false;
  silence();
  armed.store(1, std::memory_order_seq_cst);
  return true;
}

void Completions::end_events(int socket) {
  const std::lock_guard lock(mutex_);
  if (!events_) return;
  for (const int fd : {socket, channel_.notify.get()}) ::epoll_ctl(events_.get(), EPOLL_CTL_DEL, fd, nullptr);
  ipc::signal(woken_);
}

}  // namespace muster::detail
