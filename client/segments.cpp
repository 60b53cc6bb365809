// Mappings are made without the lock, as the daemon may take its time.
#include "segments.hpp"

#include <utility>

#include <muster/ipc/failpoint.hpp>

namespace muster::detail {

namespace {

/// Mappings without users that are kept: steady state must not map anything anew.
constexpr std::size_t unused_max = 16;

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
    found = entries_.try_emplace(segment, Entry{std::move(*handle), std::move(*mapping)}).first;
  }
  found->second.last_used = ++clock_;
  return &found->second;
}

Result<const std::byte*> Segments::base(ipc::SegmentId segment) {
  std::unique_lock lock(mutex_);
  auto found = entry(segment, lock);
  if (!found) return found.error();
  const std::byte* data = (*found)->mapping.data();
  return data;
}

Result<ipc::Mapping> Segments::map_private(ipc::SegmentId segment, std::uint64_t offset, std::uint64_t bytes) {
  std::unique_lock lock(mutex_);
  auto found = entry(segment, lock);
  if (!found) return found.error();
  return ipc::Mapping::map((*found)->handle.fd, bytes, ipc::Access::copy_on_write, offset);
}

void Segments::use(ipc::SegmentId segment) {
  const std::lock_guard lock(mutex_);
  ++users_[segment];
}

void Segments::unuse(ipc::SegmentId segment) {
  const std::lock_guard lock(mutex_);
  auto found = users_.find(segment);
  if (found == users_.end() || --found->second > 0) return;
  users_.erase(found);
  drop_unused();
}

bool Segments::forget(ipc::SegmentId segment) {
  const std::lock_guard lock(mutex_);
  if (users_.contains(segment)) return false;
  entries_.erase(segment);
  return true;
}

void Segments::drop_unused() {
  while (entries_.size() > users_.size() + unused_max) {
    auto oldest = entries_.end();
    for (auto it = entries_.begin(); it != entries_.end(); ++it)
      if (!users_.contains(it->first) && (oldest == entries_.end() || it->second.last_used < oldest->second.last_used))
        oldest = it;
    if (oldest == entries_.end()) return;
    entries_.erase(oldest);
  }
}

}  // namespace muster::detail
