// Failures on demand: the file `inject` of the folder says which calls fail, hang or break their context.
// It is read again whenever it changes. tests/gpu/README.md describes its lines.
#pragma once

#include <cstdint>
#include <string>

#include <cuda.h>

namespace fake_gpu {

struct Injected {
  CUresult code = CUDA_SUCCESS;
  bool breaks_context = false;
  int nccl_code = 0;             // of a call of NCCL's: ncclResult_t
  int nccl_later = 0;            // the error that the communicator has when the op runs
  std::uint64_t stalled_by = 0;  // what the call enqueues doesn't run before `stalls` is false for this; 0 for nothing
};

/// Returns what happens to this call. Hangs as long as a line says so. The driver's mutex must not be held. A line that
/// names a device doesn't match while the device isn't known (physical < 0); `only_device` leaves out all other lines,
/// which were asked before.
Injected injected(const std::string& call, int physical, bool only_device);
/// Whether the file is still the one that said so.
bool stalls(std::uint64_t stamp);

/// Prints a message of the fake about itself.
void complain(const char* where, const char* what);

}  // namespace fake_gpu
