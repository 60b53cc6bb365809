#include "arena.hpp"

#include <algorithm>

namespace muster::detail {

namespace {

/// A segment that has been free for this long is not part of anybody's steady state.
constexpr auto idle_time = std::chrono::seconds(2);
/// Beside large regions the allocator may need a slab for small ones.
constexpr std::uint64_t slack_bytes = 128 << 10;
constexpr std::uint64_t huge_page_bytes = 2 << 20;

std::uint64_t round_up(std::uint64_t bytes, std::uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

Result<std::byte*> Arena::allocate(std::uint64_t bytes, std::uint64_t call, std::chrono::nanoseconds timeout) {
  bytes = std::max<std::uint64_t>(bytes, 1);
  {
    const std::lock_guard lock(mutex_);
    if (disowned_) return Error(Code::daemon_unavailable, "the connection was inherited by fork()", "connect again");
    if (auto* address = place(bytes, call)) return address;
  }
  // No lock while the daemon makes us wait: others may free meanwhile.
  source_.reclaim();
  if (auto* address = place_locked(bytes, call)) return address;
  auto grown = grow(bytes, timeout);
  if (!grown) source_.reclaim();
  if (auto* address = place_locked(bytes, call)) return address;
  if (!grown) return grown.error();
  return Error(Code::out_of_memory,
               "other threads took the segment that was leased for " + std::to_string(bytes) + " bytes", "try again");
}

std::byte* Arena::place_locked(std::uint64_t bytes, std::uint64_t call) {
  const std::lock_guard lock(mutex_);
  return place(bytes, call);
}

std::byte* Arena::place(std::uint64_t bytes, std::uint64_t call) {
  auto region = allocator_.allocate(bytes);
  if (!region) return nullptr;
  free_since_.erase(region->segment);
  std::byte* address = segments_.at(region->segment).mapping.data() + region->offset;
  regions_.emplace(address, Region{{address, region->segment, region->offset, region->bytes, call}});
  return address;
}

Result<void> Arena::grow(std::uint64_t bytes, std::chrono::nanoseconds timeout) {
  std::uint64_t wanted =
      bytes + slack_bytes <= segment_bytes_ ? segment_bytes_ : round_up(bytes + slack_bytes, huge_page_bytes);
  auto segment = source_.lease(wanted, wanted > bytes + slack_bytes ? std::chrono::nanoseconds(0) : timeout);
  if (!segment && segment.error().code() == Code::out_of_memory) {
    // Not even our own idle segments may stand in the way; then the smallest that does is worth waiting for.
    trim();
    wanted = round_up(bytes + slack_bytes, 4096);
    segment = source_.lease(wanted, timeout);
  }
  if (!segment) return segment.error();
  const std::lock_guard lock(mutex_);
  allocator_.add_segment(segment->id, segment->mapping.bytes());
  const auto id = segment->id;
  segments_.emplace(id, std::move(*segment));
  return {};
}

void Arena::free(void* address) {
  std::vector<ipc::SegmentId> idle;
  {
    const std::lock_guard lock(mutex_);
    auto region = regions_.find(static_cast<const std::byte*>(address));
    if (region == regions_.end() || disowned_) return;
    region->second.local = false;
    release_if_unused(region);
    give_back_idle(idle, false);
  }
  for (const auto segment : idle) source_.give_back(segment);
}

std::optional<ArenaRegion> Arena::find(const void* address) const {
  const auto* byte = static_cast<const std::byte*>(address);
  const std::lock_guard lock(mutex_);
  auto after = regions_.upper_bound(byte);
  if (after == regions_.begin()) return std::nullopt;
  const auto& region = std::prev(after)->second.region;
  if (byte >= region.address + region.bytes) return std::nullopt;
  return region;
}

void Arena::adopt(ipc::ObjectId object, std::span<const std::byte* const> addresses) {
  const std::lock_guard lock(mutex_);
  auto& adopted = objects_[object];
  for (const auto* address : addresses) {
    auto after = regions_.upper_bound(address);
    auto& region = std::prev(after)->second;
    ++region.objects;
    adopted.push_back(region.region.address);
  }
}

void Arena::object_gone(ipc::ObjectId object) {
  std::vector<ipc::SegmentId> idle;
  {
    const std::lock_guard lock(mutex_);
    auto found = objects_.find(object);
    if (found == objects_.end() || disowned_) return;
    const auto addresses = std::move(found->second);
    objects_.erase(found);
    for (const auto* address : addresses) {
      auto region = regions_.find(address);
      --region->second.objects;
      release_if_unused(region);
    }
    give_back_idle(idle, false);
  }
  for (const auto segment : idle) source_.give_back(segment);
}

void Arena::release_if_unused(Regions::iterator region) {
  if (region->second.local || region->second.objects > 0) return;
  allocator_.free(region->second.region.segment, region->second.region.offset);
  regions_.erase(region);
}

void Arena::give_back_idle(std::vector<ipc::SegmentId>& idle, bool all) {
  const auto now = std::chrono::steady_clock::now();
  for (const auto segment : allocator_.free_segments()) {
    const auto since = free_since_.try_emplace(segment, now).first->second;
    if (!all && now - since < idle_time) continue;
    allocator_.remove_segment(segment);
    free_since_.erase(segment);
    segments_.erase(segment);
    idle.push_back(segment);
  }
}

void Arena::trim() {
  std::vector<ipc::SegmentId> idle;
  {
    const std::lock_guard lock(mutex_);
    give_back_idle(idle, true);
  }
  for (const auto segment : idle) source_.give_back(segment);
}

std::vector<ArenaRegion> Arena::unsealed() const {
  std::vector<ArenaRegion> found;
  for (const auto& [address, region] : regions_)
    if (region.objects == 0) found.push_back(region.region);
  return found;
}

}  // namespace muster::detail
