// The settings that a node starts with.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/in_place.hpp>
#include <muster/ipc/records.hpp>
#include <muster/ipc/region_allocator.hpp>

#include "base/time.hpp"
#include "memory/ledger.hpp"

namespace musterd {

struct NodeSettings {
  std::string version;
  std::string socket;
  std::string log;   ///< where the log goes, for `muster status`
  std::string host;  ///< the machine's name, for messages
  std::uint64_t incarnation = 1;
  Quota quota;
  /// A GPU as the driver names it: clients may see other ones, and number them otherwise.
  struct Gpu {
    muster::Device device;
    muster::ipc::GpuUuid uuid{};
  };
  std::vector<Gpu> gpus;
  std::uint32_t segments_about = muster::ipc::RegionAllocator::most_segments;  ///< how many a client should hold
  std::uint32_t in_flight_max = 1024;  ///< ops of one group that a client may have in flight; back-pressure after that
  std::uint32_t requests_max = muster::ipc::requests_max;  ///< unanswered requests of one client
  std::size_t seats_max = 4096;                            ///< of one client
  std::size_t memory_waiters_max = 4096;
  std::size_t segments_of_turn = 8;  ///< segments for results made in one turn; each takes some tens of microseconds
  double idle_exit_s = 0;
  unsigned lanes = 1;
  std::string huge_pages;
  std::string nccl_so;     ///< as the daemon was started, for `muster doctor`
  std::string nccl_wheel;  ///< the same
  std::int32_t pid = 0;
  std::uint32_t user = 0;  ///< the user as whom the daemon runs; it and root may end the daemon
  Duration pickle_lease = std::chrono::minutes(10);
};

using muster::ipc::world_size_max;
inline constexpr std::size_t name_bytes_max = 256;  ///< of groups and clients

}  // namespace musterd
