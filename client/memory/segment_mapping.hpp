// A segment as this process has mapped it: memory of the host, which may be pinned, or of a GPU, where it may also be
// memory that its owner has left in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include <muster/device.hpp>
#include <muster/ipc/fd.hpp>
#include <muster/result.hpp>

#include "device/cuda.hpp"
#include "device/pinned.hpp"

namespace muster::detail {

class SegmentMapping {
 public:
  SegmentMapping() = default;
  explicit SegmentMapping(ipc::Mapping host) : host_(std::move(host)) {}
  SegmentMapping(SegmentMapping&&) noexcept = default;
  SegmentMapping& operator=(SegmentMapping&& other) noexcept;
  SegmentMapping(const SegmentMapping&) = delete;
  SegmentMapping& operator=(const SegmentMapping&) = delete;
  ~SegmentMapping() = default;

  /// Maps the first `bytes` bytes of memory that the descriptor names. Invalid if this process can't use the device.
  [[nodiscard]] static Result<SegmentMapping> map(const ipc::Fd& fd, std::uint64_t bytes, ipc::Access access,
                                                  Device device);

  /// The same for memory that its owner has left in place.
  [[nodiscard]] static Result<SegmentMapping> open(const ipc::InPlaceMemory& memory, Device device);

  /// An address that only its GPU can use, if it is memory of one.
  [[nodiscard]] std::byte* data() const;
  [[nodiscard]] std::uint64_t bytes() const {
    return in_place_ ? in_place_->memory().bytes : on_gpu_ ? on_gpu_->mapping.bytes() : host_.bytes();
  }
  [[nodiscard]] bool is_host() const { return !on_gpu_ && !in_place_; }
  [[nodiscard]] bool is_in_place() const { return in_place_ != nullptr; }
  /// Keeps the pin of this mapping. A second one ends at once.
  void set_pin(PinPtr pin);
  [[nodiscard]] bool is_pinned() const { return pin_ != nullptr; }
  /// Work on a GPU that uses it must be over.
  void unmap();
  explicit operator bool() const { return in_place_ || on_gpu_ || host_; }

 private:
  /// Leaves it as it is in a forked child, where CUDA does not work.
  struct Unmap {
    void operator()(CudaMapping* mapped) const;
  };
  ipc::Mapping host_;
  PinPtr pin_;  ///< of `host_`, and ends before it
  std::unique_ptr<CudaMapping, Unmap> on_gpu_;
  CudaSharedPtr in_place_;
};

}  // namespace muster::detail
