// What the daemon said of itself when this process connected.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/ids.hpp>

namespace muster::detail {

struct Welcome {
  std::string version;
  std::string socket;
  std::uint64_t incarnation = 0;
  ipc::ClientId client;
  std::uint64_t memory_bytes = 0;
  std::uint32_t segments_about = 0;  ///< how many segments a process should have at most
  std::uint32_t in_flight_max = 0;
  std::chrono::milliseconds pickle_lease{};
  std::vector<Device> devices;  ///< on which it has memory
};

}  // namespace muster::detail
