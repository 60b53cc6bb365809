// Books of which region belongs to whom. The daemon is never asked under the lock.
#include "arena.hpp"

#include <algorithm>

namespace muster::detail {

namespace {

/// A segment that has been free for this long is not part of anybody's steady state.
constexpr auto idle_time = std::chrono::seconds(2);
/// Beside large regions the allocator may need a slab for small ones.
constexpr std::uint64_t slack_bytes = 128 << 10;
constexpr std::uint64_t huge_page_bytes = 2 << 20;
constexpr std::uint64_t page_bytes = 4096;
/// Far from overflow; the daemon refuses what is more than its budget.
constexpr std::uint64_t bytes_max = std::uint64_t{1} << 46;

std::uint64_t round_up(std::uint64_t bytes, std::uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

Result<std::byte*> Arena::allocate(std::uint64_t bytes, std::uint64_t call, std::chrono::nanoseconds timeout) {
  bytes = std::max<std::uint64_t>(bytes, 1);
  if (bytes > bytes_max) return Error(Code::invalid, "an array of " + std::to_string(bytes) + " bytes");
  std::byte* address = nullptr;
  const auto placed = [&] { return (address = allocate_here(bytes, call)) != nullptr; };
  // Perhaps the room is there and only the news of it is waiting.
  const auto placed_after_news = [&] {
    source_.collect();
    return placed();
  };
  if (placed()) return address;
  if (disowned_) return Error(Code::daemon_unavailable, "the connection was inherited by fork()", "connect again");
  if (placed_after_news()) return address;
  // No lock while the daemon makes us wait: others may free meanwhile.
  auto segment = lease_for(bytes, timeout, placed_after_news);
  if (segment) add(std::move(*segment));
  if (address || placed()) return address;
  if (!segment) return segment.error();
  return Error(Code::out_of_memory,
               "other threads took the segment that was leased for " + std::to_string(bytes) + " bytes", "try again");
}

std::byte* Arena::allocate_here(std::uint64_t bytes, std::uint64_t call) {
  const std::lock_guard lock(mutex_);
  return disowned_ || bytes > bytes_max ? nullptr : place(std::max<std::uint64_t>(bytes, 1), call);
}

Result<LeasedSegment> Arena::lease_for(std::uint64_t bytes, std::chrono::nanoseconds timeout,
                                       const std::function<bool()>& stop) {
  const std::uint64_t wanted =
      bytes + slack_bytes <= segment_bytes_ ? segment_bytes_ : round_up(bytes + slack_bytes, huge_page_bytes);
  auto segment = source_.lease(wanted, std::chrono::nanoseconds(0), {});
  if (segment || segment.error().code() != Code::out_of_memory || stop()) return segment;
  // Not even our own idle segments may stand in the way; then the smallest that does is worth waiting for.
  trim();
  return source_.lease(round_up(bytes + slack_bytes, page_bytes), timeout, stop);
}

void Arena::add(LeasedSegment segment) {
  const std::lock_guard lock(mutex_);
  allocator_.add_segment(segment.id, segment.mapping.bytes());
  const auto id = segment.id;
  segments_.emplace(id, std::move(segment));
}

std::byte* Arena::place(std::uint64_t bytes, std::uint64_t call) {
  auto region = allocator_.allocate(bytes);
  if (!region) return nullptr;
  free_since_.erase(region->segment);
  std::byte* address = segments_.at(region->segment).mapping.data() + region->offset;
  regions_.emplace(address, Region{{address, region->segment, region->offset, region->bytes, call}});
  return address;
}

void Arena::free(void* address) {
  Idle idle;
  {
    const std::lock_guard lock(mutex_);
    auto region = regions_.find(static_cast<const std::byte*>(address));
    if (region == regions_.end() || disowned_) return;
    region->second.local = false;
    release_if_unused(region);
    idle = take_idle(idle_time);
  }
  give_back(idle);
}

std::optional<ArenaRegion> Arena::find(const void* address) const {
  const std::lock_guard lock(mutex_);
  const auto found = region_of(static_cast<const std::byte*>(address));
  if (found == regions_.end()) return std::nullopt;
  return found->second.region;
}

std::uint64_t Arena::allocated_bytes() const {
  const std::lock_guard lock(mutex_);
  return allocator_.allocated_bytes();
}

Arena::Regions::const_iterator Arena::region_of(const std::byte* address) const {
  if (auto exact = regions_.find(address); exact != regions_.end()) return exact;
  for (const auto& [id, segment] : segments_) {
    const auto* begin = segment.mapping.data();
    if (address < begin || address >= begin + segment.mapping.bytes()) continue;
    const auto region = allocator_.find(id, static_cast<std::uint64_t>(address - begin));
    return region ? regions_.find(begin + region->offset) : regions_.end();
  }
  return regions_.end();
}

Result<void> Arena::adopt(ipc::ObjectId object, std::span<const std::byte* const> addresses) {
  const std::lock_guard lock(mutex_);
  for (const auto* address : addresses)
    if (disowned_ || region_of(address) == regions_.end())
      return Error(Code::invalid, "memory to seal is not memory of the store, or was freed");
  auto& adopted = objects_[object];
  adopted.reserve(addresses.size());
  for (const auto* address : addresses) {
    const auto* begin = region_of(address)->first;
    ++regions_.at(begin).objects;
    adopted.push_back(begin);
  }
  return {};
}

void Arena::adopt_hard(ipc::ObjectId object, ipc::SegmentId segment) {
  const std::lock_guard lock(mutex_);
  hard_objects_.emplace(object, segment);
}

void Arena::object_gone(ipc::ObjectId object) {
  Idle idle;
  {
    const std::lock_guard lock(mutex_);
    if (disowned_) return;
    if (auto hard = hard_objects_.extract(object); !hard.empty()) idle.push_back(hard.mapped());
    if (auto found = objects_.extract(object); !found.empty()) {
      for (const auto* address : found.mapped()) {
        auto region = regions_.find(address);
        --region->second.objects;
        release_if_unused(region);
      }
      const auto free_long = take_idle(idle_time);
      idle.insert(idle.end(), free_long.begin(), free_long.end());
    }
  }
  give_back(idle);
}

void Arena::release_if_unused(Regions::iterator region) {
  if (region->second.local || region->second.objects > 0) return;
  allocator_.free(region->second.region.segment, region->second.region.offset);
  regions_.erase(region);
}

Arena::Idle Arena::take_idle(std::chrono::steady_clock::duration free_for) {
  Idle idle;
  if (!allocator_.has_free_segment()) return idle;
  const auto now = std::chrono::steady_clock::now();
  for (const auto segment : allocator_.free_segments()) {
    const auto since = free_since_.try_emplace(segment, now).first->second;
    if (now - since < free_for) continue;
    allocator_.remove_segment(segment);
    free_since_.erase(segment);
    segments_.erase(segment);
    idle.push_back(segment);
  }
  return idle;
}

void Arena::give_back(const Idle& idle) {
  for (const auto segment : idle) source_.give_back(segment);
}

void Arena::trim() {
  Idle idle;
  {
    const std::lock_guard lock(mutex_);
    if (!disowned_) idle = take_idle({});
  }
  give_back(idle);
}

void Arena::trim_idle() {
  Idle idle;
  {
    const std::lock_guard lock(mutex_);
    if (!disowned_) idle = take_idle(idle_time);
  }
  give_back(idle);
}

std::vector<ArenaRegion> Arena::unsealed() const {
  std::vector<ArenaRegion> found;
  for (const auto& [address, region] : regions_)
    if (region.objects == 0) found.push_back(region.region);
  return found;
}

}  // namespace muster::detail
