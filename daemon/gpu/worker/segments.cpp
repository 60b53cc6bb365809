#include "gpu/worker/segments.hpp"

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
  // A job may name the segment before its maker has heard of this.
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

void DeviceSegments::drop(SegmentId id) { segments_.erase(id); }

Result<cuda::Address> DeviceSegments::address(SegmentId id, std::uint64_t offset, std::uint64_t bytes) const {
  const auto found = segments_.find(id);
  if (found == segments_.end())
    return Error(Code::failed, fmt::format("the GPU's worker knows no segment {}", id.value),
                 "this is a mistake of Muster's: see the daemon's log");
  const auto& [mapping, made] = found->second;
  if (!made) return made.error();
  if (offset > mapping.bytes() || bytes > mapping.bytes() - offset)
    return Error(Code::failed, fmt::format("segment {} has {} bytes, and {} at {} are not inside", id.value,
                                           mapping.bytes(), bytes, offset));
  return mapping.address() + offset;
}

}  // namespace musterd::gpu
