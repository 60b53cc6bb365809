// Where bytes lie: in which segment's memory, and how far from its start. Plans and jobs name places. Only the lane
// that does the work turns them into addresses, as memory of a GPU has no address on the host.
#pragma once

#include <cstddef>
#include <cstdint>

#include "memory/backing.hpp"

namespace musterd {

struct Place {
  const SegmentMemory* memory = nullptr;  ///< null: nowhere, as for an array without bytes
  std::uint64_t offset = 0;
  bool operator==(const Place&) const = default;
};

[[nodiscard]] inline Place operator+(const Place& place, std::uint64_t bytes) {
  return {place.memory, place.offset + bytes};
}

/// The address of a place; null if it is nowhere. The memory must have an address on the host: see
/// SegmentMemory::host().
[[nodiscard]] inline std::byte* host_address(const Place& place) {
  return place.memory ? place.memory->host().data() + place.offset : nullptr;
}

}  // namespace musterd
