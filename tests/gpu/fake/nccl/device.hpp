// What the fake asks of the fake driver: the device of a thread, injections, settings and books.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include <cuda.h>

#include "failure.hpp"

namespace fake_nccl {

struct Device {
  int ordinal = 0;
  CUcontext context = nullptr;
  std::array<char, 16> uuid{};
};

/// The device of this thread's context. Throws ncclUnhandledCudaError if it has none.
Device current_device();

/// Makes the context current for a scope.
class InContext {
 public:
  explicit InContext(CUcontext context);
  InContext(const InContext&) = delete;
  InContext& operator=(const InContext&) = delete;
  ~InContext();
};

/// Throws ncclUnhandledCudaError for a code other than success.
void require_cuda(int code, const char* what);

struct Injected {
  ncclResult_t later = ncclSuccess;  // what becomes of the communicator when the op runs
  std::uint64_t stalled_by = 0;      // what the call begins doesn't go on before `stalls` is false for this
};
/// What the file `inject` says of this call: throws its error, and hangs as long as it says so.
Injected inject(const char* call, int device);
bool stalls(std::uint64_t stamp);

/// Whether a communicator learns that another's process has died; setting `nccl_deaths`.
bool deaths_are_noticed();

/// A line in the books for as long as this lives.
class Counted {
 public:
  Counted(int device, const char* item);
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted();

 private:
  int device_;
  const char* item_;
};

}  // namespace fake_nccl
