// The seam between a GPU and its worker process. The daemon's port starts a process and has a socket to it
// (worker_process.hpp); that of tests is in the same process.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>

#include <muster/ipc/fd.hpp>
#include <muster/result.hpp>

#include "gpu/worker_frames.hpp"
#include "memory/ledger.hpp"

namespace musterd::gpu {

/// A descriptor that several may keep open without a copy of it.
using SharedFd = std::shared_ptr<const muster::ipc::Fd>;

/// All functions are called on the control thread, and none of them waits. What the worker says, and its end, come as
/// Gpu::received() and Gpu::worker_ended(), never from within.
class WorkerPort {
 public:
  WorkerPort() = default;
  WorkerPort(const WorkerPort&) = delete;
  WorkerPort& operator=(const WorkerPort&) = delete;
  virtual ~WorkerPort() = default;

  /// Starts a worker. There is none now. An error if the system has no process or socket for it.
  [[nodiscard]] virtual muster::Result<void> start() = 0;
  /// Sends a frame to the worker, now or when there is room for it. `fd`: a descriptor that goes with it; null: none.
  /// `user`: who has asked for what it begins; nobody, if it begins nothing.
  virtual void send(WorkerFrame frame, SharedFd fd, std::optional<UserId> user) = 0;
  /// What waits until there is room for it.
  [[nodiscard]] virtual std::size_t waiting_bytes() const = 0;
  [[nodiscard]] virtual std::size_t waiting_bytes(UserId user) const = 0;
  /// Ends the worker at once. Its end comes when the process is gone, and with it all that it did on the GPU.
  virtual void kill() noexcept = 0;
};

}  // namespace musterd::gpu
