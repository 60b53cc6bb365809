#include "segment_mapping.hpp"

#include <utility>

namespace muster::detail {

Result<SegmentMapping> SegmentMapping::map(const ipc::Fd& fd, std::uint64_t bytes, ipc::Access access, Device device) {
  if (device.is_host()) {
    auto mapped = ipc::Mapping::map(fd, bytes, access);
    if (!mapped) return mapped.error();
    return SegmentMapping(std::move(*mapped));
  }
  auto cuda = Cuda::get();
  if (!cuda) return cuda.error();
  auto mapped = (*cuda)->map(fd, bytes, access, device);
  if (!mapped) return mapped.error();
  SegmentMapping segment;
  segment.on_gpu_.reset(mapped->release());
  return segment;
}

Result<SegmentMapping> SegmentMapping::open(const ipc::InPlaceMemory& memory, Device device) {
  auto cuda = Cuda::get();
  if (!cuda) return cuda.error();
  auto opened = (*cuda)->open(memory, device);
  if (!opened) return opened.error();
  SegmentMapping segment;
  segment.in_place_ = std::move(*opened);
  return segment;
}

void SegmentMapping::Unmap::operator()(CudaMapping* mapped) const {
  if (Cuda::get()) delete mapped;
}

std::byte* SegmentMapping::data() const {
  if (in_place_) return in_place_->base();
  if (!on_gpu_) return host_.data();
  // An address of a GPU is a number, but one that no memory of the host has.
  // NOLINTNEXTLINE(performance-no-int-to-ptr)
  return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(on_gpu_->mapping.address()));
}

SegmentMapping& SegmentMapping::operator=(SegmentMapping&& other) noexcept {
  if (this == &other) return *this;
  unmap();
  host_ = std::move(other.host_);
  pin_ = std::move(other.pin_);
  on_gpu_ = std::move(other.on_gpu_);
  in_place_ = std::move(other.in_place_);
  return *this;
}

void SegmentMapping::set_pin(PinPtr pin) {
  if (!pin_) pin_ = std::move(pin);
}

void SegmentMapping::unmap() {
  pin_.reset();
  on_gpu_.reset();
  in_place_.reset();
  host_.unmap();
}

}  // namespace muster::detail
