// Memory of a GPU that a process has allocated by itself, as CUDA names it for other processes. Objects may be left
// there: daemon/adr/0027-left-in-place.md.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace muster::ipc {

/// What cuIpcGetMemHandle() says of an allocation. It names the whole allocation, and is no secret.
using MemoryHandle = std::array<std::uint8_t, 64>;
/// What cuDeviceGetUuid() says of a GPU: the same in all processes.
using GpuUuid = std::array<std::uint8_t, 16>;

struct InPlaceMemory {
  std::uint64_t bytes = 0;  ///< of the whole allocation
  MemoryHandle handle{};
  GpuUuid gpu{};
};

/// Between this and the struct of the same layout in frames.
template <class To, class From>
[[nodiscard]] To in_place_as(const From& memory) {
  static_assert(std::endian::native == std::endian::little);
  return std::bit_cast<To>(memory);
}

}  // namespace muster::ipc
