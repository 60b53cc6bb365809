// Segments as those of a device: others map their descriptors, and the daemon has no address of them.
#pragma once

#include <catch2/catch.hpp>

#include <memory>
#include <utility>

#include <muster/ipc/fd.hpp>

#include "memory/backing.hpp"

namespace musterd::testing {

/// Memory of a device, as the daemon sees it: others map its descriptor, and it has no address here.
class DeviceMemory final : public SegmentMemory {
 public:
  explicit DeviceMemory(muster::ipc::Fd fd) : fd_(std::move(fd)) {}
  [[nodiscard]] int descriptor() const noexcept override { return fd_.get(); }
  [[nodiscard]] std::span<std::byte> host() const noexcept override { return {}; }
  void close_descriptor() noexcept override { FAIL("it is not mapped: closing it may take long"); }
  [[nodiscard]] muster::Result<void> seal() override { return {}; }
  [[nodiscard]] muster::Result<void> seal_hard() override {
    return muster::Error(muster::Code::invalid, "the driver has no seals");
  }
  [[nodiscard]] bool populate(std::uint64_t, std::uint64_t) noexcept override { return false; }

 private:
  muster::ipc::Fd fd_;
};

class DeviceBacking final : public SegmentBacking {
 public:
  static constexpr std::uint64_t unit_bytes = 2 << 20;
  [[nodiscard]] Limits limits() const noexcept override { return {unit_bytes, std::uint64_t{1} << 36}; }
  [[nodiscard]] muster::Result<SegmentMemoryPtr> create(const SegmentSpec& spec) override {
    auto fd = muster::ipc::create_memfd("device", spec.bytes);
    if (!fd) return fd.error();
    return SegmentMemoryPtr(std::make_shared<DeviceMemory>(std::move(*fd)));
  }
};

}  // namespace musterd::testing
