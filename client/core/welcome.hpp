// What the daemon said of itself when this process connected.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/ipc/in_place.hpp>

namespace muster::detail {

struct Welcome {
  std::string version;
  std::string socket;
  std::uint64_t incarnation = 0;
  ipc::ClientId client;
  std::uint32_t segments_about = 0;  ///< how many segments a process should have at most
  std::uint32_t in_flight_max = 0;
  std::chrono::milliseconds pickle_lease{};
  /// A device on which the daemon has memory, and how much it may use there.
  struct Memory {
    Device device;
    std::uint64_t bytes = 0;
    ipc::GpuUuid gpu{};  ///< as the driver names it; zeros for the host
  };
  std::vector<Memory> devices;  ///< the host is the first
  [[nodiscard]] std::uint64_t memory_bytes() const { return devices.front().bytes; }
};

}  // namespace muster::detail
