// Segments as those of a device: others map their descriptors, and the daemon has no address of them.
#pragma once

#include <catch2/catch.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <muster/ipc/fd.hpp>

#include "memory/backing.hpp"

namespace musterd::testing {

/// Memory of a device, as the daemon sees it: others map its descriptor, and it has no address here.
class DeviceMemory final : public SegmentMemory {
 public:
  explicit DeviceMemory(muster::ipc::Fd fd, bool late = false) : fd_(std::move(fd)), coming_(late) {}
  /// The device has made the memory, or can't.
  void finish(muster::Result<void> made) {
    coming_ = false;
    if (!made) lost_ = made.error();
    for (const auto& then : std::exchange(waiting_, {})) then(made);
  }
  [[nodiscard]] muster::Result<bool> when_made(std::function<void(muster::Result<void>)> then) override {
    if (lost_) return *lost_;
    if (coming_) waiting_.push_back(std::move(then));
    return !coming_;
  }
  [[nodiscard]] bool is_lost() const noexcept override { return lost_.has_value(); }
  [[nodiscard]] int descriptor() const noexcept override { return coming_ || lost_ ? -1 : fd_.get(); }
  [[nodiscard]] std::span<std::byte> host() const noexcept override { return {}; }
  void close_descriptor() noexcept override { FAIL("it is not mapped: closing it may take long"); }
  [[nodiscard]] muster::Result<void> seal() override { return {}; }
  [[nodiscard]] muster::Result<void> seal_hard() override {
    return muster::Error(muster::Code::invalid, "the driver has no seals");
  }
  [[nodiscard]] bool populate(std::uint64_t, std::uint64_t) noexcept override { return false; }

 private:
  muster::ipc::Fd fd_;
  bool coming_;
  std::optional<muster::Error> lost_;
  std::vector<std::function<void(muster::Result<void>)>> waiting_;
};

class DeviceBacking final : public SegmentBacking {
 public:
  static constexpr std::uint64_t unit_bytes = 2 << 20;
  [[nodiscard]] Limits limits() const noexcept override { return {unit_bytes, std::uint64_t{1} << 36}; }
  [[nodiscard]] muster::Result<SegmentMemoryPtr> create(const SegmentSpec& spec) override {
    auto fd = muster::ipc::create_memfd("device", spec.bytes);
    if (!fd) return fd.error();
    auto memory = std::make_shared<DeviceMemory>(std::move(*fd), late);
    if (late) coming.push_back(memory);
    return SegmentMemoryPtr(std::move(memory));
  }

  bool late = false;                                ///< memory is there only when the test says so
  std::vector<std::weak_ptr<DeviceMemory>> coming;  ///< what is not there yet
};

}  // namespace musterd::testing
