// Maps segments without holding the lock, as the daemon may need time to answer.
#include "segments.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/failpoint.hpp>

namespace muster::detail {

namespace {

/// How many mappings without users are kept. In the steady state a process must not map anything anew.
constexpr std::size_t unused_max = 4096;

}  // namespace

Result<SegmentMapping> Segments::map(ipc::SegmentId segment, Device device) {
  auto handle = fetch_(segment);
  if (!handle) return handle.error();
  if (handle->in_place) return SegmentMapping::open(*handle->in_place, device);
  auto mapping = SegmentMapping::map(handle->fd, handle->bytes, ipc::Access::read_only, device);
  MUSTER_FAILPOINT(result_mapped);
  return mapping;
}

/// Ends the use if mapping fails.
Result<SegmentMapping> Segments::map_for_user(ipc::SegmentId segment, Device device) try {
  auto mapping = map(segment, device);
  if (!mapping) unuse(segment);
  return mapping;
} catch (...) {
  unuse(segment);
  throw;
}

Result<const std::byte*> Segments::use(ipc::SegmentId segment, Device device) {
  std::unique_lock lock(mutex_);
  // The entry stays where it is while it has a user, even without the lock.
  Entry& entry = entries_[segment];
  if (entry.gone) return Error(Code::invalid, fmt::format("segment {} is gone", segment.value));
  if (entry.users++ == 0 && entry.mapping) {
    --unused_;
    unused_bytes_ -= entry.mapping.bytes();
  }
  if (!entry.mapping) {
    lock.unlock();
    auto mapping = map_for_user(segment, device);
    if (!mapping) return mapping.error();
    lock.lock();
    // If another thread was faster, keeps its mapping: there may be views over it.
    if (!entry.mapping) entry.mapping = std::move(*mapping);
  }
  if (device == Device::pinned()) pin(entry, lock);
  entry.last_used = ++clock_;
  const std::byte* data = entry.mapping.data();
  return data;
}

/// Without the lock, as the kernel may have to make pages present. Tried at each use: this process may use a GPU by
/// now, or have pinned less.
void Segments::pin(Entry& entry, std::unique_lock<OrderedMutex>& lock) {
  if (entry.mapping.is_pinned()) return;
  auto* const data = entry.mapping.data();
  const auto bytes = entry.mapping.bytes();
  lock.unlock();
  PinPtr pinned = pin_for_reading(data, bytes, pins_);
  lock.lock();
  entry.mapping.set_pin(std::move(pinned));
}

Result<ipc::Mapping> Segments::map_private(ipc::SegmentId segment, std::uint64_t offset, std::uint64_t bytes) {
  // Asks for the descriptor again: the process may have few descriptors, and private mappings are rare.
  auto handle = fetch_(segment);
  if (!handle) return handle.error();
  return ipc::Mapping::map(handle->fd, bytes, ipc::Access::copy_on_write, offset);
}

void Segments::unuse(ipc::SegmentId segment) {
  Dropped dropped;
  {
    const std::lock_guard lock(mutex_);
    auto found = entries_.find(segment);
    if (found == entries_.end() || found->second.users == 0 || --found->second.users > 0) return;
    Entry& entry = found->second;
    if (entry.mapping && !entry.gone && !entry.mapping.is_in_place()) {
      ++unused_;
      unused_bytes_ += entry.mapping.bytes();
      dropped = drop_some();
    } else {
      if (entry.gone || entry.mapping) dropped.push_back({segment, std::move(entry.mapping), entry.gone});
      entries_.erase(found);
    }
  }
  tell_unmapped(std::move(dropped));
}

bool Segments::forget(ipc::SegmentId segment) {
  const std::lock_guard lock(mutex_);
  auto found = entries_.find(segment);
  if (found == entries_.end()) return true;
  if (found->second.users > 0) return false;
  static_cast<void>(take(found));
  return true;
}

void Segments::gone(ipc::SegmentId segment) {
  Dropped dropped;
  {
    const std::lock_guard lock(mutex_);
    auto found = entries_.find(segment);
    if (found != entries_.end() && found->second.users > 0) {
      found->second.gone = true;
      return;
    }
    dropped.push_back({segment, found == entries_.end() ? SegmentMapping() : take(found), true});
  }
  tell_unmapped(std::move(dropped));
}

SegmentMapping Segments::take(Entries::iterator entry) {
  --unused_;
  unused_bytes_ -= entry->second.mapping.bytes();
  SegmentMapping mapping = std::move(entry->second.mapping);
  entries_.erase(entry);
  return mapping;
}

/// Drops a quarter at once, so that it seldom has to go through all entries.
Segments::Dropped Segments::drop_some() {
  Dropped dropped;
  const std::uint64_t keep = keep_();
  if (unused_ <= unused_max && unused_bytes_ <= keep) return dropped;
  const std::uint64_t bytes_left = unused_bytes_ > keep ? keep - keep / 4 : keep;
  const std::size_t left = unused_ > unused_max ? unused_max - unused_max / 4 : unused_max;
  std::vector<Entries::iterator> unused;
  for (auto it = entries_.begin(); it != entries_.end(); ++it)
    if (it->second.users == 0) unused.push_back(it);
  std::ranges::sort(unused, {}, [](const auto& entry) { return entry->second.last_used; });
  for (const auto entry : unused) {
    if (unused_ <= left && unused_bytes_ <= bytes_left) break;
    const auto segment = entry->first;
    dropped.push_back({segment, take(entry), false});
  }
  return dropped;
}

/// Unmaps first and tells the daemon after that.
void Segments::tell_unmapped(Dropped dropped) {
  for (auto& each : dropped) each.mapping = {};
  const std::lock_guard lock(mutex_);
  // Another thread may have mapped the segment again.
  for (const auto& each : dropped)
    if (each.gone || !entries_.contains(each.segment)) unmapped_(each.segment);
}

}  // namespace muster::detail
