// Mappings are made without the lock, as the daemon may take its time.
#include "segments.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include <muster/ipc/failpoint.hpp>

namespace muster::detail {

namespace {

/// Mappings without users that are kept: steady state must not map anything anew.
constexpr std::size_t unused_max = 4096;

}  // namespace

Result<ipc::Mapping> Segments::map(ipc::SegmentId segment) {
  auto handle = fetch_(segment);
  if (!handle) return handle.error();
  auto mapping = ipc::Mapping::map(handle->fd, handle->bytes, ipc::Access::read_only);
  MUSTER_FAILPOINT(result_mapped);
  return mapping;
}

Result<const std::byte*> Segments::use(ipc::SegmentId segment) {
  std::unique_lock lock(mutex_);
  // Its user keeps the entry where it is, also while the lock is let go.
  Entry& entry = entries_[segment];
  if (entry.gone) return Error(Code::invalid, "segment " + std::to_string(segment.value) + " is gone");
  if (entry.users++ == 0 && entry.mapping) --unused_;
  if (!entry.mapping) {
    lock.unlock();
    auto mapping = map(segment);
    if (!mapping) {
      unuse(segment);
      return mapping.error();
    }
    lock.lock();
    // If another thread was faster, its mapping stays: there may be views over it.
    if (!entry.mapping) entry.mapping = std::move(*mapping);
  }
  entry.last_used = ++clock_;
  const std::byte* data = entry.mapping.data();
  return data;
}

Result<ipc::Mapping> Segments::map_private(ipc::SegmentId segment, std::uint64_t offset, std::uint64_t bytes) {
  // Descriptors are few, and so are private mappings: no descriptor is kept for them.
  auto handle = fetch_(segment);
  if (!handle) return handle.error();
  return ipc::Mapping::map(handle->fd, bytes, ipc::Access::copy_on_write, offset);
}

void Segments::unuse(ipc::SegmentId segment) {
  {
    const std::lock_guard lock(mutex_);
    auto found = entries_.find(segment);
    if (found == entries_.end() || found->second.users == 0 || --found->second.users > 0) return;
    const bool gone = found->second.gone;
    if (!gone && found->second.mapping) {
      if (++unused_ > unused_max) drop_oldest();
      return;
    }
    entries_.erase(found);
    if (!gone) return;
  }
  unmapped_(segment);
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

void Segments::gone(ipc::SegmentId segment) {
  {
    const std::lock_guard lock(mutex_);
    auto found = entries_.find(segment);
    if (found != entries_.end() && found->second.users > 0) {
      found->second.gone = true;
      return;
    }
    if (found != entries_.end()) {
      entries_.erase(found);
      --unused_;
    }
  }
  unmapped_(segment);
}

/// A quarter at once, so that the walk over all is rare.
void Segments::drop_oldest() {
  std::vector<std::uint64_t> ages;
  for (const auto& [id, entry] : entries_)
    if (entry.users == 0) ages.push_back(entry.last_used);
  const auto last = ages.begin() + static_cast<std::ptrdiff_t>(ages.size() / 4);
  std::nth_element(ages.begin(), last, ages.end());
  unused_ -= std::erase_if(entries_,
                           [&](const auto& each) { return each.second.users == 0 && each.second.last_used <= *last; });
}

}  // namespace muster::detail
