// Memory of a GPU, and launches there, as the tests of the kernels have them. There are two of them: device_memory.cpp
// has buffers of the host under other addresses, and the host's version of the kernels; driver_memory.cpp has a GPU,
// and its driver.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "daemon/gpu/kernels/launch.hpp"

namespace musterd::gpu::testing {

using kernels::Address;

enum class Access : std::uint8_t { read, write };

/// Bytes of GPU memory, `shift` beyond a multiple of 64. Only these bytes may be touched. bytes() is what the next
/// launch finds there, or what the last one has left.
class DeviceBuffer {
 public:
  DeviceBuffer(std::size_t bytes, std::size_t shift, Access access);
  DeviceBuffer(std::span<const std::byte> content, std::size_t shift, Access access);
  DeviceBuffer(DeviceBuffer&&) = delete;
  ~DeviceBuffer();

  [[nodiscard]] Address address() const { return address_; }
  [[nodiscard]] std::span<std::byte> bytes() { return {first_, bytes_}; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return {first_, bytes_}; }
  [[nodiscard]] Access access() const { return access_; }

 private:
  std::size_t bytes_;
  Access access_;
  std::unique_ptr<std::byte, void (*)(void*)> memory_;
  std::byte* first_;
  Address address_ = 0;
};

/// Runs a launch to its end, every thread of every block. Fails the test if there is no such kernel, or if it touched
/// memory that it may not touch, as far as that can be seen.
void run(kernels::Launch launch);

}  // namespace musterd::gpu::testing
