#include "gpu/worker/segments.hpp"

#include <bit>
#include <utility>

#include <fmt/format.h>

namespace musterd::gpu {

using cuda::Status;
using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

Error DeviceSegments::not_made(SegmentId id, const char* step, Status status) {
  const bool full = status == Status::out_of_memory;
  Error why(full ? Code::out_of_memory : Code::failed,
            fmt::format("segment {} was not made: {}: {}", id.value, step, driver_.describe(status)),
            full ? "others have taken memory of the GPU, see `nvidia-smi`; give a smaller --gpu-memory"
                 : "see what `nvidia-smi` says of the GPU");
  if (!cuda::leaves_context(status) && !lost_) lost_ = why;
  return no_segment(id, why);
}

/// A job may name the segment before its maker has heard of this.
Error DeviceSegments::no_segment(SegmentId id, Error why) {
  segments_.erase(id);
  segments_.try_emplace(id, driver_, 0).first->second.made = why;
  return why;
}

Result<ipc::Fd> DeviceSegments::make(SegmentId id, std::uint64_t bytes) {
  segments_.erase(id);
  DeviceMapping& mapping = segments_.try_emplace(id, driver_, bytes).first->second.mapping;
  if (const Status made = mapping.make(device_); made != Status::success) return not_made(id, "cuMemCreate", made);
  if (const Status mapped = mapping.map(device_); mapped != Status::success)
    return not_made(id, "to map its memory", mapped);
  // What an earlier process has left there must not be seen.
  if (const Status cleared = driver_.memset_d8_async(mapping.address(), 0, bytes, nullptr); cleared != Status::success)
    return not_made(id, "cuMemsetD8Async", cleared);
  if (const Status waited = driver_.stream_synchronize(nullptr); waited != Status::success)
    return not_made(id, "to clear its memory", waited);
  int fd = -1;
  if (const Status shared = mapping.share(fd); shared != Status::success)
    return not_made(id, "cuMemExportToShareableHandle", shared);
  return ipc::Fd(fd);
}

Result<void> DeviceSegments::adopt(SegmentId id, std::uint64_t bytes, const ipc::Fd& fd) {
  segments_.erase(id);
  DeviceMapping& mapping = segments_.try_emplace(id, driver_, bytes).first->second.mapping;
  if (const Status imported = mapping.import(fd.get()); imported != Status::success)
    return not_made(id, "cuMemImportFromShareableHandle", imported);
  if (const Status mapped = mapping.map(device_); mapped != Status::success)
    return not_made(id, "to map its memory", mapped);
  return {};
}

DeviceSegments::Opened::~Opened() {
  if (address != 0) driver.ipc_close_mem_handle(address);
}

Result<std::shared_ptr<DeviceSegments::Opened>> DeviceSegments::open(const ipc::MemoryHandle& handle) {
  std::erase_if(opened_, [](const auto& each) { return each.second.expired(); });
  if (const auto known = opened_.find(handle); known != opened_.end()) return known->second.lock();
  const auto checked = [&](const char* step, Status status) -> Result<void> {
    if (status == Status::success) return {};
    Error why(Code::invalid, fmt::format("{}: {}", step, driver_.describe(status)),
              "is it memory of cudaMalloc that was not freed, and does its process run in the daemon's container?");
    // What the driver says of a bad handle does not tell whether the context is lost. Then every call fails.
    std::size_t unused = 0;
    std::size_t total = 0;
    if (!cuda::leaves_context(driver_.mem_get_info(&unused, &total)) && !lost_) lost_ = why;
    return why;
  };
  auto opened = std::make_shared<Opened>(driver_);
  const auto named = std::bit_cast<cuda::MemoryHandle>(handle);
  const Status status = driver_.ipc_open_mem_handle(&opened->address, named, cuda::ipc_lazy_enable_peer_access);
  if (status != Status::success) opened->address = 0;
  if (auto there = checked("cuIpcOpenMemHandle", status); !there) return there.error();
  cuda::Address base = 0;
  std::size_t bytes = 0;
  if (auto there = checked("cuMemGetAddressRange", driver_.mem_get_address_range(&base, &bytes, opened->address));
      !there)
    return there.error();
  opened->bytes = base + bytes - opened->address;
  cuda::Device device = 0;
  if (auto there =
          checked("cuPointerGetAttribute",
                  driver_.pointer_get_attribute(&device, cuda::PointerAttribute::device_ordinal, opened->address));
      !there)
    return there.error();
  if (device != device_)
    return Error(Code::invalid, "it is memory of another GPU", "name the device that the memory is on");
  opened_[handle] = opened;
  return opened;
}

Result<void> DeviceSegments::open(SegmentId id, const ipc::InPlaceMemory& memory) {
  segments_.erase(id);
  cuda::Uuid own{};
  if (const Status status = driver_.device_get_uuid(&own, device_); status != Status::success)
    return not_made(id, "cuDeviceGetUuid", status);
  if (std::bit_cast<ipc::GpuUuid>(own) != memory.gpu)
    return no_segment(id, not_opened(id, Error(Code::invalid, "it is said to be on another GPU",
                                               "name the device that the memory is on")));
  auto opened = open(memory.handle);
  if (!opened) return no_segment(id, not_opened(id, opened.error()));
  if ((*opened)->bytes < memory.bytes)
    return no_segment(
        id, not_opened(id, Error(Code::invalid,
                                 fmt::format("it is said to have {} bytes, and has {}", memory.bytes, (*opened)->bytes),
                                 "give the size of the whole allocation")));
  segments_.try_emplace(id, driver_, 0).first->second.in_place = std::move(*opened);
  return {};
}

Error DeviceSegments::not_opened(SegmentId id, const Error& why) {
  return {why.code(), fmt::format("memory can't be left in place as segment {}: {}", id.value, why.message()),
          why.hint()};
}

void DeviceSegments::drop(SegmentId id) { segments_.erase(id); }

Result<cuda::Address> DeviceSegments::address(SegmentId id, std::uint64_t offset, std::uint64_t bytes) const {
  const auto found = segments_.find(id);
  if (found == segments_.end())
    return Error(Code::failed, fmt::format("the GPU's worker knows no segment {}", id.value),
                 "this is a mistake of Muster's: see the daemon's log");
  const Segment& segment = found->second;
  if (!segment.made) return segment.made.error();
  if (offset > segment.bytes() || bytes > segment.bytes() - offset)
    return Error(Code::failed, fmt::format("segment {} has {} bytes, and {} at {} are not inside", id.value,
                                           segment.bytes(), bytes, offset));
  return segment.address() + offset;
}

}  // namespace musterd::gpu
