// Small regions cost a few loads and stores: they take the latest freed slot of the first slab with room. At most one
// slab of each class stays empty, so that a region that is made and dropped over and over does not make a slab each
// time.
#include <muster/ipc/region_allocator.hpp>

#include <algorithm>
#include <bit>

namespace muster::ipc {

namespace {

constexpr std::uint16_t slot_taken = 0xffff;
constexpr std::uint16_t no_slot = 0xfffe;
constexpr std::uint64_t pages_per_table = 256;
/// A region of this size or more has a segment of its own, as long as these are few.
constexpr std::uint64_t own_bytes_least = 1 << 20;
constexpr std::uint64_t shared_bytes_least = 64 << 10;
/// A new shared segment has this part of the size of all together. So a mostly free one wastes little, and they are
/// few.
constexpr std::uint64_t growth = 32;
/// A segment for a single region is at most this part too large.
constexpr std::uint64_t own_steps = 8;

constexpr std::uint64_t round_up(std::uint64_t bytes, std::uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

/// A region must be at least about half of a segment that it has for itself.
constexpr bool may_be_alone(std::uint64_t bytes, std::uint64_t segment_bytes) {
  constexpr std::uint64_t waste = 64 << 10;
  return segment_bytes <= 2 * bytes + waste;
}

}  // namespace

// Multiples of 64 up to 1 KiB, then four sizes to each doubling: a region wastes a fifth at most.
std::uint32_t RegionAllocator::class_of(std::uint64_t bytes) {
  const std::uint64_t last = bytes - 1;
  if (bytes <= 1024) return static_cast<std::uint32_t>(last / alignment_bytes);
  const auto log2 = static_cast<std::uint32_t>(std::bit_width(last)) - 1;
  return 16 + (log2 - 10) * 4 + static_cast<std::uint32_t>((last - (std::uint64_t{1} << log2)) >> (log2 - 2));
}

std::uint32_t RegionAllocator::class_bytes(std::uint32_t size_class) {
  if (size_class < 16) return (size_class + 1) * alignment_bytes;
  const std::uint32_t doubling = (size_class - 16) / 4;
  return (1024u << doubling) + (size_class % 4 + 1) * (256u << doubling);
}

std::uint32_t RegionAllocator::slots_of(std::uint32_t size_class) {
  return static_cast<std::uint32_t>(slab_bytes / class_bytes(size_class));
}

RegionAllocator::Segment& RegionAllocator::segment_of(SegmentId segment) {
  const auto found = segments_.find(segment);
  if (found == segments_.end()) allocator_misused("no such segment", segment, 0);
  return found->second;
}

std::uint32_t RegionAllocator::slab_at(const Segment& segment, std::uint64_t offset) const {
  const auto page = offset / page_bytes;
  if (page / pages_per_table >= segment.slab_of_page.size()) return none;
  const auto& table = segment.slab_of_page[page / pages_per_table];
  return table ? (*table)[page % pages_per_table] : none;
}

std::uint64_t RegionAllocator::own_bytes_min() const {
  return std::max(own_bytes_least * size_, std::bit_floor(segment_bytes_ / most_segments * size_));
}

// Sizes have eight steps to each doubling, so that a segment serves again if sizes vary a little.
std::uint64_t RegionAllocator::wanted(std::uint64_t bytes) const {
  const std::uint64_t own_min = own_bytes_min();
  if (bytes >= own_min) return round_up(bytes, std::bit_floor(bytes) / own_steps);
  const std::uint64_t usual = std::clamp(shared_bytes_ / growth * size_, shared_bytes_least * size_, 4 * own_min);
  return std::max(round_up(usual, slab_bytes), least(bytes));
}

std::uint64_t RegionAllocator::least(std::uint64_t bytes) const {
  return bytes < large_bytes_min ? slab_bytes : round_up(bytes, page_bytes);
}

RegionAllocator::Region RegionAllocator::allocate_with(SegmentId segment, std::uint64_t segment_bytes,
                                                       std::uint64_t bytes) {
  const bool own = bytes >= own_bytes_min() && may_be_alone(bytes, segment_bytes);
  add_segment(segment, segment_bytes, own ? Use::own : Use::shared);
  try {
    const auto region = counted(own ? allocate_own(bytes) : allocate_shared(bytes));
    if (!region) allocator_misused("a segment added that is too small for its region", segment, bytes);
    return *region;
  } catch (const std::bad_alloc&) {
    remove_segment(segment);
    throw;
  }
}

void RegionAllocator::add_segment(SegmentId segment, std::uint64_t bytes, Use use) {
  const auto [place, is_new] = segments_.try_emplace(segment);
  if (!is_new) allocator_misused("segment added twice", segment, 0);
  auto& added = place->second;
  added.bytes = bytes;
  added.use = use;
  added.freed = ++own_frees_;
  try {
    if (use == Use::own) free_own_.insert(own_key(segment, added));
    else extents_.add_segment(segment, bytes);
  } catch (const std::bad_alloc&) {
    segments_.erase(place);
    throw;
  }
  if (use == Use::shared) shared_bytes_ += bytes;
  segment_bytes_ += bytes;
}

void RegionAllocator::remove_segment(SegmentId segment) {
  auto& removed = segment_of(segment);
  if (removed.regions != 0) allocator_misused("segment removed while regions are allocated", segment, removed.regions);
  if (removed.use == Use::own) {
    free_own_.erase(own_key(segment, removed));
  } else {
    drop_empty_slabs(segment);
    extents_.remove_segment(segment);
    shared_bytes_ -= removed.bytes;
  }
  segment_bytes_ -= removed.bytes;
  segments_.erase(segment);
}

std::vector<SegmentId> RegionAllocator::free_segments() const {
  std::vector<SegmentId> free;
  for (const auto& [id, segment] : segments_)
    if (segment.regions == 0) free.push_back(id);
  return free;
}

std::optional<RegionAllocator::Region> RegionAllocator::allocate(std::uint64_t bytes) {
  if (bytes == 0) allocator_misused("a region without bytes", {}, 0);
  if (bytes > segment_bytes_) return std::nullopt;
  std::optional<Region> region;
  if (bytes >= own_bytes_least * size_) region = allocate_own(bytes);
  if (!region && bytes < own_bytes_min()) region = allocate_shared(bytes);
  return counted(region);
}

std::optional<RegionAllocator::Region> RegionAllocator::counted(std::optional<Region> region) {
  if (region) allocated_bytes_ += region->bytes;
  return region;
}

std::optional<RegionAllocator::Region> RegionAllocator::allocate_shared(std::uint64_t bytes) {
  std::optional<Region> region;
  if (bytes < large_bytes_min) region = allocate_small(class_of(bytes));
  // If no slab fits any more, a page still may.
  return region ? region : allocate_pages(round_up(bytes, page_bytes));
}

std::optional<RegionAllocator::Region> RegionAllocator::allocate_own(std::uint64_t bytes) {
  const auto best = free_own_.lower_bound(OwnKey{bytes, 0, {}});
  if (best == free_own_.end() || !may_be_alone(bytes, best->bytes)) return std::nullopt;
  const auto id = best->segment;
  auto& segment = segment_of(id);
  segment.node = free_own_.extract(best);
  count_region(segment);
  return Region{id, 0, segment.bytes};
}

void RegionAllocator::free_own(SegmentId id, Segment& segment, std::uint64_t offset) {
  if (offset != 0 || segment.regions == 0) allocator_misused("freed what was not taken", id, offset);
  allocated_bytes_ -= segment.bytes;
  forget_region(segment);
  segment.freed = ++own_frees_;
  segment.node.value() = own_key(id, segment);
  free_own_.insert(std::move(segment.node));
}

std::optional<RegionAllocator::Region> RegionAllocator::allocate_small(std::uint32_t size_class) {
  if (with_room_[size_class] == none && !make_slab(size_class)) return std::nullopt;
  const auto index = with_room_[size_class];
  auto& slab = slabs_[index];
  const bool reused = slab.free_slot != no_slot;
  const std::uint16_t slot = reused ? slab.free_slot : slab.untouched_slot++;
  if (reused) slab.free_slot = slab.links[slot];
  slab.links[slot] = slot_taken;
  if (++slab.used == slab.links.size()) unlink(index);
  count_region(*slab.home);
  const auto bytes = class_bytes(size_class);
  return Region{slab.segment, slab.offset + std::uint64_t{slot} * bytes, bytes};
}

std::optional<RegionAllocator::Region> RegionAllocator::allocate_pages(std::uint64_t bytes) {
  const auto extent = take_extent(bytes);
  if (!extent) return std::nullopt;
  count_region(segment_of(extent->segment));
  return Region{extent->segment, extent->offset, extent->bytes};
}

std::optional<Extents::Extent> RegionAllocator::take_extent(std::uint64_t bytes) {
  auto extent = extents_.take(bytes);
  if (!extent && drop_empty_slabs()) extent = extents_.take(bytes);
  return extent;
}

bool RegionAllocator::make_slab(std::uint32_t size_class) {
  if (unused_slabs_.empty()) {
    // All slabs may become unused, and freeing can't fail.
    if (unused_slabs_.capacity() == slabs_.size()) unused_slabs_.reserve(2 * slabs_.size() + 1);
    slabs_.emplace_back();
    unused_slabs_.push_back(static_cast<std::uint32_t>(slabs_.size() - 1));
  }
  std::vector<std::uint16_t> links(slots_of(size_class), no_slot);
  const auto extent = take_extent(slab_bytes);
  if (!extent) return false;
  try {
    make_tables(segment_of(extent->segment), extent->offset);
  } catch (const std::bad_alloc&) {
    extents_.give(extent->segment, extent->offset);
    throw;
  }
  const auto index = unused_slabs_.back();
  unused_slabs_.pop_back();
  auto& slab = slabs_[index];
  slab = {.segment = extent->segment,
          .home = &segment_of(extent->segment),
          .offset = extent->offset,
          .size_class = size_class,
          .free_slot = no_slot,
          .links = std::move(links)};
  map_slab(slab, index);
  link(index);
  return true;
}

/// Makes the tables for a slab that begins at this offset.
void RegionAllocator::make_tables(Segment& segment, std::uint64_t offset) {
  const auto last = (offset + slab_bytes - 1) / page_bytes / pages_per_table;
  auto& tables = segment.slab_of_page;
  if (last >= tables.size()) tables.resize(last + 1);
  for (auto at = offset / page_bytes / pages_per_table; at <= last; ++at) {
    if (tables[at]) continue;
    tables[at] = std::make_unique<SlabOfPage>();
    tables[at]->fill(none);
  }
}

void RegionAllocator::map_slab(const Slab& slab, std::uint32_t index) {
  for (auto page = slab.offset / page_bytes; page < (slab.offset + slab_bytes) / page_bytes; ++page)
    (*slab.home->slab_of_page[page / pages_per_table])[page % pages_per_table] = index;
}

void RegionAllocator::free(SegmentId segment, std::uint64_t offset) {
  auto& home = segment_of(segment);
  if (home.use == Use::own) return free_own(segment, home, offset);
  if (const auto slab = slab_at(home, offset); slab != none) {
    free_small(home, slab, offset);
  } else {
    allocated_bytes_ -= extents_.give(segment, offset);
    forget_region(home);
  }
}

void RegionAllocator::free_small(Segment& segment, std::uint32_t index, std::uint64_t offset) {
  auto& slab = slabs_[index];
  const auto bytes = class_bytes(slab.size_class);
  const auto slot = (offset - slab.offset) / bytes;
  if (slot * bytes != offset - slab.offset || slot >= slab.links.size() || slab.links[slot] != slot_taken)
    allocator_misused("freed what was not allocated", slab.segment, offset);
  slab.links[slot] = slab.free_slot;
  slab.free_slot = static_cast<std::uint16_t>(slot);
  allocated_bytes_ -= bytes;
  forget_region(segment);
  if (slab.used == slab.links.size()) link(index);
  if (--slab.used == 0 && (slab.previous != none || slab.next != none)) drop_slab(index);
}

void RegionAllocator::drop_slab(std::uint32_t index) {
  unlink(index);
  map_slab(slabs_[index], none);
  extents_.give(slabs_[index].segment, slabs_[index].offset);
  slabs_[index].links = {};
  unused_slabs_.push_back(index);
}

bool RegionAllocator::drop_empty_slabs(SegmentId segment) {
  bool dropped = false;
  for (auto index : with_room_)
    while (index != none) {
      const auto next = slabs_[index].next;
      if (slabs_[index].used == 0 && (!segment || slabs_[index].segment == segment)) {
        drop_slab(index);
        dropped = true;
      }
      index = next;
    }
  return dropped;
}

std::optional<RegionAllocator::Region> RegionAllocator::find(SegmentId segment, std::uint64_t offset) const {
  const auto home = segments_.find(segment);
  if (home == segments_.end()) return std::nullopt;
  const auto& own = home->second;
  if (own.use == Use::own)
    return own.regions && offset < own.bytes ? std::optional(Region{segment, 0, own.bytes}) : std::nullopt;
  const auto index = slab_at(home->second, offset);
  if (index == none) {
    const auto extent = extents_.find(segment, offset);
    return extent ? std::optional(Region{segment, extent->offset, extent->bytes}) : std::nullopt;
  }
  const auto& slab = slabs_[index];
  const auto bytes = class_bytes(slab.size_class);
  const auto slot = (offset - slab.offset) / bytes;
  if (slot >= slab.links.size() || slab.links[slot] != slot_taken) return std::nullopt;
  return Region{segment, slab.offset + slot * bytes, bytes};
}

void RegionAllocator::link(std::uint32_t index) {
  auto& slab = slabs_[index];
  auto& first = with_room_[slab.size_class];
  slab.previous = none;
  slab.next = first;
  if (first != none) slabs_[first].previous = index;
  first = index;
}

void RegionAllocator::unlink(std::uint32_t index) {
  auto& slab = slabs_[index];
  if (slab.next != none) slabs_[slab.next].previous = slab.previous;
  (slab.previous != none ? slabs_[slab.previous].next : with_room_[slab.size_class]) = slab.next;
  slab.previous = slab.next = none;
}

}  // namespace muster::ipc
