// Mappings are made without the lock, as the daemon may take its time.
#include "segments.hpp"

#include <utility>

#include <muster/ipc/failpoint.hpp>

namespace muster::detail {

namespace {

/// Mappings without users that are kept: steady state must not map anything anew.
constexpr std::size_t unused_max = 256;

}  // namespace

Result<Segments::Entry*> Segments::entry(ipc::SegmentId segment, std::unique_lock<std::mutex>& lock) {
  auto found = entries_.find(segment);
  if (found == entries_.end()) {
    lock.unlock();
    auto handle = fetch_(segment);
    if (!handle) return handle.error();
    auto mapping = ipc::Mapping::map(handle->fd, handle->bytes, ipc::Access::read_only);
    if (!mapping) return mapping.error();
    MUSTER_FAILPOINT(result_mapped);
    lock.lock();
    // If another thread was faster, its mapping stays: there may be views over it.
    auto [mapped, is_new] = entries_.try_emplace(segment, Entry{std::move(*mapping)});
    if (is_new) ++unused_;
    found = mapped;
  }
  found->second.last_used = ++clock_;
  return &found->second;
}

Result<const std::byte*> Segments::use(ipc::SegmentId segment) {
  std::unique_lock lock(mutex_);
  auto found = entry(segment, lock);
  if (!found) return found.error();
  Entry& used = **found;
  if (used.users++ == 0) --unused_;
  const std::byte* data = used.mapping.data();
  return data;
}

Result<ipc::Mapping> Segments::map_private(ipc::SegmentId segment, std::uint64_t offset, std::uint64_t bytes) {
  // Descriptors are few, and so are private mappings: no descriptor is kept for them.
  auto handle = fetch_(segment);
  if (!handle) return handle.error();
  return ipc::Mapping::map(handle->fd, bytes, ipc::Access::copy_on_write, offset);
}

void Segments::unuse(ipc::SegmentId segment) {
  const std::lock_guard lock(mutex_);
  auto found = entries_.find(segment);
  if (found == entries_.end() || found->second.users == 0 || --found->second.users > 0) return;
  if (++unused_ > unused_max) drop_oldest();
}

bool Segments::forget(ipc::SegmentId segment) {
  const std::lock_guard lock(mutex_);
  auto found = entries_.find(segment);
  if (found == entries_.end()) return true;
  if (found->second.users > 0) return false;
  entries_.erase(found);
  --unused_;
  return true;
}

void Segments::drop_oldest() {
  auto oldest = entries_.end();
  for (auto it = entries_.begin(); it != entries_.end(); ++it)
    if (it->second.users == 0 && (oldest == entries_.end() || it->second.last_used < oldest->second.last_used))
      oldest = it;
  if (oldest == entries_.end()) return;
  entries_.erase(oldest);
  --unused_;
}

}  // namespace muster::detail
