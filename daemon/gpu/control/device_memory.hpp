// Memory of a GPU behind a segment. A worker makes it; the daemon has its descriptor, which keeps it whatever becomes
// of the worker.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/result.hpp>

#include "base/errand.hpp"
#include "memory/backing.hpp"

namespace musterd::gpu {

/// What the GPU and the segment's memory share. Only the control thread touches it.
struct DeviceAllocation {
  SegmentId id;
  muster::Device device;
  std::uint64_t bytes = 0;
  muster::ipc::Fd fd;                                              ///< set once it is made
  std::optional<muster::Error> lost;                               ///< why there is no memory, and never will be
  std::vector<std::function<void(muster::Result<void>)>> waiting;  ///< called once when one of the two is set
  bool is_unwanted = false;                                        ///< it goes as soon as the worker has answered

  [[nodiscard]] bool is_made() const { return static_cast<bool>(fd); }
  [[nodiscard]] bool is_coming() const { return !is_made() && !lost; }
};

class DeviceMemory final : public SegmentMemory {
 public:
  using Post = std::function<void(Errand)>;
  /// `at_end` is handed to `post` when the memory ends, on whatever thread that happens.
  DeviceMemory(std::shared_ptr<DeviceAllocation> allocation, Post post, Errand at_end)
      : allocation_(std::move(allocation)), id_(allocation_->id), post_(std::move(post)), at_end_(std::move(at_end)) {}
  ~DeviceMemory() override { post_(std::move(at_end_)); }

  [[nodiscard]] SegmentId id() const { return id_; }
  [[nodiscard]] muster::Device device() const { return allocation_->device; }
  [[nodiscard]] int descriptor() const noexcept override { return allocation_->fd.get(); }
  [[nodiscard]] std::span<std::byte> host() const noexcept override { return {}; }
  void close_descriptor() noexcept override {}
  [[nodiscard]] muster::Result<bool> when_made(std::function<void(muster::Result<void>)> then) override;
  [[nodiscard]] bool is_lost() const noexcept override { return allocation_->lost.has_value(); }
  /// The driver has no seals. A process that maps the memory chooses for itself whether it only reads.
  [[nodiscard]] muster::Result<void> seal() override { return {}; }
  [[nodiscard]] muster::Result<void> seal_hard() override;
  [[nodiscard]] bool populate(std::uint64_t, std::uint64_t) noexcept override { return false; }

 private:
  std::shared_ptr<DeviceAllocation> allocation_;
  SegmentId id_;
  Post post_;
  Errand at_end_;
};

}  // namespace musterd::gpu
