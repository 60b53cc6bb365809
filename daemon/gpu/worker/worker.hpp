// The process that works on one GPU: it alone has a context there. The daemon starts it, tells it what to do over a
// socket, and replaces it when it dies or hangs.
#pragma once

#include <string>

#include "gpu/nccl.hpp"

namespace musterd::gpu {

struct WorkerOptions {
  int device = 0;    ///< its number among the driver's
  std::string uuid;  ///< of the GPU that it must be; empty: any
  NcclPlaces nccl;
};

/// Serves until the daemon closes the socket. Returns the exit status.
[[nodiscard]] int run_worker(const WorkerOptions& options);

}  // namespace musterd::gpu
