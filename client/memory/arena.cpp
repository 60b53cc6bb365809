// Keeps the books of which region belongs to whom. Never asks the daemon while it holds the lock.
#include "arena.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include <muster/ipc/byte_count.hpp>

#include "device/cuda.hpp"

namespace muster::detail {

namespace {

using std::chrono::steady_clock;
using Use = ipc::RegionAllocator::Use;

/// A segment that has been free for this long is no longer needed in the steady state.
constexpr auto idle_time = std::chrono::seconds(2);
constexpr auto look_interval = idle_time / 20;
/// If a process's shared segments are smaller than this together, it keeps them.
constexpr std::uint64_t small_bytes = 256 << 10;
/// Far below an overflow. The daemon refuses anything beyond its budget.
constexpr std::uint64_t bytes_max = std::uint64_t{1} << 46;

}  // namespace

Result<std::byte*> Arena::allocate(std::uint64_t bytes, std::uint64_t call, std::chrono::nanoseconds timeout) {
  bytes = std::max<std::uint64_t>(bytes, 1);
  if (bytes > bytes_max)
    return Error(Code::invalid, "can't allocate an array of " + ipc::over_text(bytes, bytes_max), "use smaller arrays");
  std::byte* address = nullptr;
  const auto placed = [&] {
    const auto region = allocate_here(bytes, call);
    if (region) address = region->address;
    return region.has_value();
  };
  // A region may be free already, and this process only has to read that news.
  const auto placed_after_news = [&] {
    source_.collect();
    return placed();
  };
  // Those who wait for memory have waited longer than this call.
  if (source_.memory_wanted()) trim();
  if (placed()) return address;
  if (disowned_)
    return Error(Code::daemon_unavailable, "a forked child can't use its parent's connection and groups",
                 "attach in the child: muster.init() and muster.group(); in C++, Client::connect() and join()");
  if (placed_after_news()) return address;
  // Holds no lock while it waits for the daemon: other threads may free memory meanwhile.
  auto segment = lease_for(bytes, timeout, placed_after_news);
  if (segment) return place_in(std::move(*segment), bytes, call);
  if (address || placed()) return address;
  return segment.error();
}

std::optional<ArenaRegion> Arena::allocate_here(std::uint64_t bytes, std::uint64_t call) {
  const std::lock_guard lock(mutex_);
  if (disowned_ || bytes > bytes_max) return std::nullopt;
  return place(std::max<std::uint64_t>(bytes, 1), call);
}

Result<LeasedSegment> Arena::lease_for(std::uint64_t bytes, std::chrono::nanoseconds timeout,
                                       const std::function<bool()>& stop) {
  // Memory that this process could not use is not asked for.
  if (device_ != Device::cpu())
    if (auto cuda = Cuda::get(); !cuda) return cuda.error();
  const auto sizes = [&] {
    const std::lock_guard lock(mutex_);
    return std::pair(allocator_.wanted(bytes), allocator_.least(bytes));
  };
  auto segment = source_.lease(sizes().first, std::chrono::nanoseconds(0), {});
  const bool too_much =
      !segment && (segment.error().code() == Code::out_of_memory || segment.error().code() == Code::quota_exceeded);
  if (!too_much || stop()) return segment;
  // First gives back this process's own idle segments. Then waits, for the smallest segment that suffices.
  trim();
  return source_.lease(sizes().second, timeout, stop);
}

std::byte* Arena::place_in(LeasedSegment segment, std::uint64_t bytes, std::uint64_t call) {
  const std::lock_guard lock(mutex_);
  const auto id = segment.id;
  const auto segment_bytes = segment.mapping.bytes();
  by_address_.emplace(segment.mapping.data(), id);
  segments_.emplace(id, std::move(segment));
  return use(allocator_.allocate_with(id, segment_bytes, bytes), call).address;
}

std::optional<ArenaRegion> Arena::place(std::uint64_t bytes, std::uint64_t call) {
  const auto region = allocator_.allocate(bytes);
  if (!region) return std::nullopt;
  return use(*region, call);
}

ArenaRegion Arena::use(const ipc::RegionAllocator::Region& region, std::uint64_t call) {
  free_since_.erase(region.segment);
  std::byte* address = segments_.at(region.segment).mapping.data() + region.offset;
  auto& contents = contents_[region.segment];
  const bool fresh = region.offset >= contents.used_end;
  contents.used_end = std::max(contents.used_end, region.offset + region.bytes);
  const ArenaRegion used{address, region.segment, device_, region.offset, region.bytes, call, fresh};
  regions_.emplace(address, Region{used, true, 0, {}});
  ++contents.regions;
  contents.bytes += region.bytes;
  return used;
}

void Arena::free(void* address) {
  Idle idle;
  {
    const std::lock_guard lock(mutex_);
    auto region = regions_.find(static_cast<const std::byte*>(address));
    if (region == regions_.end() || disowned_) return;
    region->second.local = false;
    release_if_unused(region);
    idle = take_excess();
  }
  give_back(std::move(idle));
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
  const auto after = by_address_.upper_bound(address);
  if (after == by_address_.begin()) return regions_.end();
  const auto& [begin, segment] = *std::prev(after);
  const auto region = allocator_.find(segment, static_cast<std::uint64_t>(address - begin));
  return region ? regions_.find(begin + region->offset) : regions_.end();
}

Result<void> Arena::adopt(ipc::ObjectId object, std::span<const std::byte* const> addresses) {
  const std::lock_guard lock(mutex_);
  for (const auto* address : addresses)
    if (disowned_ || region_of(address) == regions_.end())
      return Error(Code::invalid, "memory to seal is not memory of the store, or was freed");
  auto& adopted = objects_[object].regions;
  adopted.reserve(addresses.size());
  for (const auto* address : addresses) {
    const auto* begin = region_of(address)->first;
    auto& region = regions_.at(begin);
    ++region.objects;
    set_shared(region, {});
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
    if (auto hard = hard_objects_.extract(object); !hard.empty()) idle.push_back({hard.mapped(), {}, {}});
    if (auto found = objects_.extract(object); !found.empty()) {
      forget_released(found.mapped());
      for (const auto* address : found.mapped().regions) {
        auto region = regions_.find(address);
        --region->second.objects;
        release_if_unused(region);
      }
      for (auto& segment : take_excess()) idle.push_back(std::move(segment));
    }
  }
  give_back(std::move(idle));
}

bool Arena::released(ipc::ObjectId object) {
  const std::lock_guard lock(mutex_);
  const auto found = objects_.find(object);
  if (disowned_ || found == objects_.end()) return false;
  forget_released(found->second);
  for (const auto* address : found->second.regions)
    if (const auto& region = regions_.at(address); !region.local && region.objects == 1)
      found->second.released_bytes += region.region.bytes;
  released_bytes_ += found->second.released_bytes;
  const std::uint64_t keep = source_.memory_wanted() ? 0 : keep_bytes_;
  return found->second.released_bytes > 0 && allocator_.wholly_free_bytes() + released_bytes_ > keep;
}

void Arena::still_held(ipc::ObjectId object) {
  const std::lock_guard lock(mutex_);
  if (const auto found = objects_.find(object); found != objects_.end()) forget_released(found->second);
}

void Arena::forget_released(Adopted& adopted) { released_bytes_ -= std::exchange(adopted.released_bytes, 0); }

bool Arena::has(ipc::ObjectId object) const {
  const std::lock_guard lock(mutex_);
  return objects_.contains(object);
}

void Arena::set_shared(Region& region, ipc::ObjectId object) {
  const auto before = std::exchange(region.shared, object);
  if (before == object) return;
  auto& contents = contents_.at(region.region.segment);
  if (before) {
    --contents.shared;
    shared_bytes_ -= region.region.bytes;
    if (const auto own = contents.sharing.find(before); --own->second == 0) contents.sharing.erase(own);
  }
  if (object) {
    ++contents.shared;
    shared_bytes_ += region.region.bytes;
    ++contents.sharing[object];
  }
}

bool Arena::is_all_shared(ipc::SegmentId segment) const {
  const auto found = contents_.find(segment);
  if (found == contents_.end()) return false;
  const auto& contents = found->second;
  return contents.shared > 0 && contents.regions == contents.shared &&
         2 * contents.bytes >= segments_.at(segment).mapping.bytes();
}

std::vector<ipc::SegmentId> Arena::share(ipc::ObjectId object) {
  const std::lock_guard lock(mutex_);
  const auto found = objects_.find(object);
  if (disowned_ || found == objects_.end()) return {};
  for (const auto* address : found->second.regions) {
    auto& region = regions_.at(address);
    if (!region.local && region.objects == 1) set_shared(region, object);
  }
  std::vector<ipc::SegmentId> segments;
  if (shared_bytes_ <= keep_bytes_) return segments;
  for (const auto* address : found->second.regions)
    if (const auto segment = regions_.at(address).region.segment; is_all_shared(segment)) segments.push_back(segment);
  return segments;
}

bool Arena::hand_over(ipc::SegmentId segment) {
  LeasedSegment removed;  // is unmapped without the lock
  const std::lock_guard lock(mutex_);
  if (disowned_ || !is_all_shared(segment)) return false;
  const auto lies_there = [&](const std::byte* address) { return regions_.at(address).region.segment == segment; };
  for (const auto& [object, regions] : std::map(contents_.at(segment).sharing)) {
    const auto adopted = objects_.find(object);
    auto& own = adopted->second.regions;
    const auto there =
        std::partition(own.begin(), own.end(), [&](const auto* address) { return !lies_there(address); });
    for (auto address = there; address != own.end(); ++address) {
      auto region = regions_.find(*address);
      region->second.objects = 0;
      release_if_unused(region);
    }
    own.erase(there, own.end());
    if (!own.empty()) continue;
    forget_released(adopted->second);
    objects_.erase(adopted);
  }
  removed = remove(segment);
  return true;
}

void Arena::release_if_unused(Regions::iterator region) {
  if (region->second.local || region->second.objects > 0) return;
  set_shared(region->second, {});
  auto& contents = contents_.at(region->second.region.segment);
  --contents.regions;
  contents.bytes -= region->second.region.bytes;
  allocator_.free(region->second.region.segment, region->second.region.offset);
  regions_.erase(region);
}

Arena::Idle Arena::take_excess() {
  if (!allocator_.has_free_segment()) return {};
  const std::uint64_t keep = source_.memory_wanted() ? 0 : keep_bytes_;
  if (allocator_.wholly_free_bytes() <= keep && steady_clock::now() < next_look_) return {};
  return take_idle(keep);
}

/// Wholly free segments, those that have been free for longest first.
std::vector<std::pair<steady_clock::time_point, ipc::SegmentId>> Arena::by_age(steady_clock::time_point now) {
  std::vector<std::pair<steady_clock::time_point, ipc::SegmentId>> free;
  for (const auto segment : allocator_.free_segments())
    free.emplace_back(free_since_.try_emplace(segment, now).first->second, segment);
  std::sort(free.begin(), free.end());
  return free;
}

Arena::Idle Arena::take_idle(std::uint64_t keep_bytes) {
  const auto now = steady_clock::now();
  next_look_ = now + look_interval;
  Idle idle;
  for (const auto& [since, segment] : by_age(now)) {
    const bool is_old = now - since >= idle_time;
    const bool is_small = allocator_.use_of(segment) == Use::shared && allocator_.shared_bytes() <= small_bytes;
    if (!is_old && (is_small || allocator_.wholly_free_bytes() <= keep_bytes)) continue;
    idle.push_back(remove(segment));
  }
  return idle;
}

LeasedSegment Arena::remove(ipc::SegmentId segment) {
  allocator_.remove_segment(segment);
  contents_.erase(segment);
  free_since_.erase(segment);
  auto removed = segments_.extract(segment);
  by_address_.erase(removed.mapped().mapping.data());
  return std::move(removed.mapped());
}

void Arena::give_back(Idle idle) {
  for (auto& segment : idle) {
    segment.mapping.unmap();
    source_.give_back(segment.id);
  }
}

void Arena::trim() {
  Idle idle;
  {
    const std::lock_guard lock(mutex_);
    if (!disowned_) idle = take_idle(0);
  }
  give_back(std::move(idle));
}

void Arena::add_hard_lease(const LeasedSegment& segment) {
  const std::lock_guard lock(mutex_);
  hard_leases_[segment.id] = {segment.mapping.data(), segment.mapping.bytes(), segment.fd.get(), 0};
}

void Arena::forget_hard_lease(ipc::SegmentId segment) {
  const std::lock_guard lock(mutex_);
  hard_leases_.erase(segment);
}

std::vector<Stretch> Arena::unsealed() const {
  std::vector<Stretch> found;
  for (const auto& [address, region] : regions_)
    if (const auto& at = region.region; region.objects == 0)
      found.push_back({at.address, at.bytes, segments_.at(at.segment).fd.get(), at.offset});
  for (const auto& [id, lease] : hard_leases_) found.push_back(lease);
  return found;
}

std::vector<Stretch> Arena::writable() const {
  std::vector<Stretch> found;
  for (const auto& [id, segment] : segments_)
    found.push_back({segment.mapping.data(), segment.mapping.bytes(), segment.fd.get(), 0});
  for (const auto& [id, lease] : hard_leases_) found.push_back(lease);
  return found;
}

}  // namespace muster::detail
