// `musterd --gpu-probe`: a process of its own that says what there is of GPUs, and ends. The daemon and the command
// line open nothing of CUDA in their own processes: a driver may hang, crash, or start threads.
#pragma once

#include "gpu/nccl.hpp"

namespace musterd::gpu {

/// Prints one JSON document to standard output. What the libraries print there goes to standard error, and each call
/// that may hang is named there before it is made. Returns the exit status: 0 whatever there is, 1 if it can't be told.
[[nodiscard]] int run_probe(const NcclPlaces& places);
/// The same of the driver only: the daemon asks at its start, and NCCL must not be in the way.
[[nodiscard]] int run_driver_probe();

}  // namespace musterd::gpu
