// Where the bytes of an array lie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace muster {

inline constexpr std::size_t gpus_max = 16;  ///< of one node

/// A kind of memory, and of a GPU's memory which GPU's. Its numbers travel on the wire and in pickled refs.
struct Device {
  enum class Kind : std::uint8_t {
    cpu = 0,     ///< memory of the host
    pinned = 1,  ///< memory of the host that GPUs read and write directly
    cuda = 2,    ///< memory of a GPU
  };

  Kind kind = Kind::cpu;
  std::uint8_t index = 0;  ///< of the GPU; else 0

  [[nodiscard]] static constexpr Device cpu() { return {}; }
  [[nodiscard]] static constexpr Device pinned() { return {Kind::pinned, 0}; }
  /// `index`: below gpus_max.
  [[nodiscard]] static constexpr Device cuda(std::uint8_t index) { return {Kind::cuda, index}; }
  /// What these numbers mean, if anything.
  [[nodiscard]] static constexpr std::optional<Device> of(std::uint8_t kind, std::uint8_t index) {
    if (kind > static_cast<std::uint8_t>(Kind::cuda)) return std::nullopt;
    const Device device{static_cast<Kind>(kind), index};
    return index < (device.is_host() ? 1 : gpus_max) ? std::optional(device) : std::nullopt;
  }
  /// Whether the host has addresses of it.
  [[nodiscard]] constexpr bool is_host() const { return kind != Kind::cuda; }
  constexpr bool operator==(const Device&) const = default;
};

/// A stream of CUDA: a cudaStream_t or CUstream. Null is the legacy default stream.
struct Stream {
  void* handle = nullptr;
};

/// "cpu", "pinned", or "cuda:0" and so on.
[[nodiscard]] inline std::string name(Device device) {
  switch (device.kind) {
    case Device::Kind::cpu: return "cpu";
    case Device::Kind::pinned: return "pinned";
    case Device::Kind::cuda: return "cuda:" + std::to_string(device.index);
  }
  return "unknown";
}

}  // namespace muster
