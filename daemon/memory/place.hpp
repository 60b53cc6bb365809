// Where bytes lie: in which segment's memory, and how far from its start. Plans and jobs name places. Only what does
// the work turns them into addresses, as the memory of a GPU has none on the host.
#pragma once

#include <cstddef>
#include <cstdint>

#include "memory/backing.hpp"

namespace musterd {

struct Place {
  const SegmentMemory* memory = nullptr;  ///< null: nowhere, as what has no bytes
  std::uint64_t offset = 0;
  bool operator==(const Place&) const = default;
};

[[nodiscard]] inline Place operator+(const Place& place, std::uint64_t bytes) {
  return {place.memory, place.offset + bytes};
}

/// Null if it is nowhere. The host must have an address of the memory: see SegmentMemory::host().
[[nodiscard]] inline std::byte* host_address(const Place& place) {
  return place.memory ? place.memory->host().data() + place.offset : nullptr;
}

}  // namespace musterd
