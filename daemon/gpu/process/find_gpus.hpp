// Which GPUs this machine has, as the probe tells it. The probe is a process of its own: a driver may hang, crash or
// print, and none of that may happen in the daemon.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/in_place.hpp>
#include <muster/result.hpp>

namespace musterd::gpu {

struct GpuFacts {
  muster::Device device;
  std::string name;
  std::string uuid;
  std::uint64_t memory_bytes = 0;
  std::uint64_t granularity_bytes = 0;  ///< of memory that can be shared
};

struct FoundGpus {
  std::vector<GpuFacts> gpus;         ///< those whose memory can be shared
  std::vector<muster::Error> unused;  ///< why others, or all of them, are not among them
};

/// Runs `program` as the probe and reads what it prints. A machine without a driver has no GPUs, and nothing is wrong
/// with it. Called once, before the daemon serves: the first call of a driver may take seconds.
[[nodiscard]] FoundGpus find_gpus(const std::string& program, const std::vector<std::string>& arguments,
                                  std::chrono::milliseconds deadline);
/// What the probe's document says.
[[nodiscard]] FoundGpus read_probe(const std::string& document);

/// Reads a text like "GPU-5a2f0c11-...": the bytes that cuDeviceGetUuid() gives. Zeros if it is none.
[[nodiscard]] muster::ipc::GpuUuid uuid_of(std::string_view text);

}  // namespace musterd::gpu
