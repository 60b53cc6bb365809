// Segments as those of a device: others map their descriptors, and the daemon has no address of them.
#pragma once

#include <catch2/catch.hpp>

#include <functional>
#include <list>
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
  using Closings = std::shared_ptr<std::list<std::function<void()>>>;
  /// Memory that was left in place. When it has ended, what the device calls once it has closed it is in `closing`.
  DeviceMemory(const muster::ipc::InPlaceMemory& in_place, bool late, Closings closing)
      : coming_(late), in_place_(in_place), closing_(std::move(closing)) {}
  ~DeviceMemory() override {
    if (closing_) closing_->splice(closing_->end(), closed_);
  }
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
  [[nodiscard]] bool is_lost() const noexcept override { return lost_ || owner_gone_; }
  [[nodiscard]] const muster::ipc::InPlaceMemory* in_place() const noexcept override {
    return in_place_ ? &*in_place_ : nullptr;
  }
  void lose_owner() noexcept override { owner_gone_ = true; }
  void when_closed(std::function<void()> then) override { closed_.push_back(std::move(then)); }
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
  std::optional<muster::ipc::InPlaceMemory> in_place_;
  bool owner_gone_ = false;
  Closings closing_;
  std::list<std::function<void()>> closed_;  ///< one, if somebody asks: to end takes no memory
  std::vector<std::function<void(muster::Result<void>)>> waiting_;
};

class DeviceBacking final : public SegmentBacking {
 public:
  static constexpr std::uint64_t unit_bytes = 2 << 20;
  [[nodiscard]] Limits limits() const noexcept override { return {unit_bytes, std::uint64_t{1} << 36}; }
  [[nodiscard]] muster::Result<SegmentMemoryPtr> create(const SegmentSpec& spec) override {
    if (spec.in_place) {
      auto memory = std::make_shared<DeviceMemory>(*spec.in_place, late, closing);
      if (late) coming.push_back(memory);
      return SegmentMemoryPtr(std::move(memory));
    }
    auto fd = muster::ipc::create_memfd("device", spec.bytes);
    if (!fd) return fd.error();
    auto memory = std::make_shared<DeviceMemory>(std::move(*fd), late);
    if (late) coming.push_back(memory);
    return SegmentMemoryPtr(std::move(memory));
  }

  bool late = false;                                ///< memory is there only when the test says so
  std::vector<std::weak_ptr<DeviceMemory>> coming;  ///< what is not there yet
  DeviceMemory::Closings closing = std::make_shared<std::list<std::function<void()>>>();  ///< what is to be closed
  /// The device has closed all that has ended.
  void close_all() const {
    for (const auto& closed : std::exchange(*closing, {})) closed();
  }
};

}  // namespace musterd::testing
