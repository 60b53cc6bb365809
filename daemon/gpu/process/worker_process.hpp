// A GPU's worker as a process: starts it, talks to it over a socket pair, notices its end.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/spawn.hpp>
#include <muster/result.hpp>

#include "base/time.hpp"
#include "gpu/control/unsent_frames.hpp"
#include "gpu/control/worker_port.hpp"

namespace musterd::gpu {

using muster::ipc::Program;

class WorkerProcess final : public WorkerPort {
 public:
  /// Both are called by the loop, never from within another function of this.
  struct Events {
    std::function<void(std::span<const std::byte> frame, std::vector<muster::ipc::Fd> fds)> received;
    std::function<void(const std::string& how)> ended;  ///< everything that the worker had said has been handed over
  };
  /// The loop must outlive this.
  WorkerProcess(boost::asio::io_context& loop, Program program, Events events);
  ~WorkerProcess() override;  ///< ends the worker without waiting for it

  /// Takes about a millisecond, until the new program runs.
  [[nodiscard]] muster::Result<void> start() override;
  void send(WorkerFrame frame, SharedFd fd, std::optional<UserId> user) override;
  [[nodiscard]] std::size_t waiting_bytes() const override { return link_ ? link_->unsent.bytes() : 0; }
  [[nodiscard]] std::size_t waiting_bytes(UserId user) const override {
    return link_ ? link_->unsent.bytes_of(user) : 0;
  }
  void kill() noexcept override;
  /// Waits for the end of a worker that was killed. Nobody is told of it.
  void wait(TimePoint until) noexcept;

  [[nodiscard]] int pid() const { return child_.pid; }  ///< 0: there is none

  /// Tells of an end that could not be told for lack of memory. Call it at next_attempt(), if there is one.
  void tell_end() noexcept;
  [[nodiscard]] std::optional<TimePoint> next_attempt() const {
    return is_over_ ? std::optional(next_attempt_) : std::nullopt;
  }

 private:
  using Descriptor = boost::asio::posix::stream_descriptor;
  /// What belongs to one worker. Waits of an earlier one find another here, or none.
  struct Link {
    Link(boost::asio::io_context& loop, muster::ipc::Fd to_worker, int watched_fd, int process_fd)
        : socket(std::move(to_worker)), watched(loop, watched_fd), process(loop, process_fd) {}
    muster::ipc::Fd socket;
    Descriptor watched;  ///< the socket once more
    Descriptor process;  ///< readable when the process is over
    UnsentFrames unsent;
    bool waits_for_room = false;
  };
  using LinkPtr = std::shared_ptr<Link>;

  void wait_for_frames(const LinkPtr& link);
  void wait_for_end(const LinkPtr& link);
  void wait_for_room(const LinkPtr& link);
  /// True if everything that has come was handed over.
  [[nodiscard]] bool receive_all(const LinkPtr& link);
  void flush(const LinkPtr& link);
  void over(const LinkPtr& link);

  boost::asio::io_context& loop_;
  Program program_;
  Events events_;
  LinkPtr link_;
  muster::ipc::Child child_;
  bool is_over_ = false;  ///< the child has ended, and nobody was told yet
  std::string how_;       ///< it ended, once that is known
  TimePoint next_attempt_{};
};

}  // namespace musterd::gpu
