// Who a process is: its id and its start time, because ids are used again.
#pragma once

#include <cstdint>

namespace fake_gpu {

struct ProcessId {
  std::int32_t pid = 0;
  std::uint64_t start = 0;  // in clock ticks since the machine started
  friend bool operator==(const ProcessId&, const ProcessId&) = default;
};

/// Returns 0 if there is no such process, or if it is a zombie: its memory and descriptors are gone then.
std::uint64_t start_of(std::int32_t pid);
ProcessId this_process();
bool lives(const ProcessId& process);
/// Whether SIGSTOP or a debugger holds the process.
bool is_stopped(std::int32_t pid);

}  // namespace fake_gpu
