#include "gpu/process/worker_process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <utility>

#include <muster/ipc/socket.hpp>

namespace musterd::gpu {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;
namespace asio = boost::asio;
using boost::system::error_code;

namespace {

Error no_socket(int number) {
  return ipc::system_error(Code::failed, "can't make a socket for a GPU's worker", number);
}

}  // namespace

WorkerProcess::WorkerProcess(asio::io_context& loop, Program program, Events events)
    : loop_(loop), program_(std::move(program)), events_(std::move(events)) {}

WorkerProcess::~WorkerProcess() {
  kill();
  wait(Clock::now());
}

Result<void> WorkerProcess::start() {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return no_socket(errno);
  ipc::Fd own(pair[0]);
  const ipc::Fd others(pair[1]);
  ipc::Fd watched(::fcntl(own.get(), F_DUPFD_CLOEXEC, 0));
  if (!watched || ::fcntl(own.get(), F_SETFL, O_NONBLOCK) != 0) return no_socket(errno);
  const ipc::Given socket{others.get(), worker_socket_fd};
  if (const int failed = ipc::spawn(program_, {&socket, 1}, child_); failed != 0)
    return ipc::system_error(Code::failed, "can't start a GPU's worker: " + program_.path, failed);
  try {
    link_ = std::make_shared<Link>(loop_, std::move(own), watched.release(),
                                   ::fcntl(child_.process.get(), F_DUPFD_CLOEXEC, 0));
    wait_for_frames(link_);
    wait_for_end(link_);
  } catch (...) {
    link_ = nullptr;
    kill();
    static_cast<void>(ipc::how_it_ended(std::exchange(child_, {})));
    throw;
  }
  return {};
}

void WorkerProcess::kill() noexcept {
  // The process is reaped by this object alone, so the number is still its own.
  if (child_.pid > 0) ::kill(child_.pid, SIGKILL);
}

void WorkerProcess::wait(TimePoint until) noexcept {
  if (child_.pid <= 0) return;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
  pollfd ended{child_.process.get(), POLLIN, 0};
  if (::poll(&ended, 1, static_cast<int>(std::max<std::int64_t>(left, 0))) <= 0) return;
  siginfo_t ignored{};
  if (::waitid(P_PID, static_cast<id_t>(child_.pid), &ignored, WEXITED) == 0) child_ = {};
}

void WorkerProcess::send(WorkerFrame frame, SharedFd fd, std::optional<UserId> user) {
  if (!link_) return;
  link_->unsent.push({std::move(frame), std::move(fd), user});
  if (!link_->waits_for_room) flush(link_);
}

void WorkerProcess::flush(const LinkPtr& link) {
  while (!link->unsent.empty()) {
    const auto& [frame, fd, user] = link->unsent.front();
    const int number = fd ? fd->get() : -1;
    const auto sent = ipc::send_packet(link->socket, frame, {&number, fd ? 1U : 0U});
    if (sent && !*sent) return wait_for_room(link);
    if (!sent && sent.error().code() == Code::out_of_memory) return wait_for_room(link);
    if (!sent) {  // it is gone, and its end comes
      link->unsent.clear();
      return;
    }
    link->unsent.pop();
  }
}

void WorkerProcess::wait_for_room(const LinkPtr& link) {
  link->watched.async_wait(Descriptor::wait_write, [this, link](error_code error) {
    link->waits_for_room = false;
    if (error || link != link_) return;
    try {
      flush(link);
    } catch (const std::exception&) {
      kill();  // it would wait for what nobody sends
    }
  });
  link->waits_for_room = true;
}

void WorkerProcess::wait_for_frames(const LinkPtr& link) {
  link->watched.async_wait(Descriptor::wait_read, [this, link](error_code error) {
    if (error || link != link_) return;
    try {
      if (receive_all(link) && link == link_) wait_for_frames(link);
    } catch (const std::exception&) {
      kill();  // it has said something that nobody heard
    }
  });
}

bool WorkerProcess::receive_all(const LinkPtr& link) {
  while (link == link_) {
    ipc::Packet packet;
    const auto received = ipc::receive_bytes(link->socket, packet);
    if (!received) kill();
    if (!received || *received != ipc::Received::packet) return received && *received == ipc::Received::would_block;
    events_.received(packet.bytes, std::move(packet.fds));
  }
  return false;
}

void WorkerProcess::wait_for_end(const LinkPtr& link) {
  link->process.async_wait(Descriptor::wait_read, [this, link](error_code error) {
    if (error || link != link_) return;
    pollfd ended{child_.process.get(), POLLIN, 0};
    if (::poll(&ended, 1, 0) > 0) over(link);
    else wait_for_end(link);
  });
}

void WorkerProcess::over(const LinkPtr& link) {
  try {
    static_cast<void>(receive_all(link));
  } catch (const std::exception&) {
    // What it said last is not heard; all that it had not done is lost.
  }
  error_code ignored;
  link->socket.reset();
  link->watched.close(ignored);
  link->process.close(ignored);
  link_ = nullptr;
  is_over_ = true;
  tell_end();
}

void WorkerProcess::tell_end() noexcept try {
  if (!is_over_) return;
  constexpr auto pause = std::chrono::milliseconds(10);
  next_attempt_ = Clock::now() + pause;
  if (how_.empty()) how_ = ipc::how_it_ended(child_);
  std::string how = how_;
  child_ = {};
  is_over_ = false;
  try {
    events_.ended(how);  // this may start the next worker
  } catch (const std::exception&) {
    is_over_ = true;
    how_ = std::move(how);
    return;
  }
  how_.clear();
} catch (const std::exception&) {
  // There is no memory for it now.
}

}  // namespace musterd::gpu
