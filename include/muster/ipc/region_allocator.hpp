// Hands out regions of segments, as offsets. It never touches the segments, and keeps its books in private memory,
// where no other process can change them. A client uses it for what it writes, the daemon for results. It has many
// functions, as its two users ask different questions of the same books.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include <muster/ipc/extents.hpp>
#include <muster/ipc/ids.hpp>

namespace muster::ipc {

/// Not thread-safe. Small regions come from slabs of one size class each. Larger ones are whole pages of a shared
/// segment. Large ones have a segment of their own, so that a small region never keeps a large segment alive.
class RegionAllocator {
 public:
  enum class Use : std::uint8_t {
    shared,  ///< many regions lie in it
    own,     ///< it is a single region, or free
  };

  static constexpr std::uint64_t large_bytes_min = 16 << 10;  ///< from here on a region has pages of its own
  static constexpr std::uint64_t slab_bytes = 64 << 10;
  static constexpr std::uint64_t alignment_bytes = 64;
  static constexpr std::uint64_t most_segments = 128;

  struct Region {
    SegmentId segment;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;  ///< its whole size: what was asked for, padded
  };

  /// `segments_about`: how many segments there should be at most, give or take half, as descriptors and mappings are
  /// limited. With fewer segments they are larger.
  explicit RegionAllocator(std::uint64_t segments_about = most_segments)
      : size_(std::max<std::uint64_t>(most_segments / std::max<std::uint64_t>(segments_about, 1), 1)) {}

  /// How large a new segment should be for a region of bytes >= 1. Shared segments begin small and grow with their
  /// total.
  [[nodiscard]] std::uint64_t wanted(std::uint64_t bytes) const;
  /// The smallest size that is enough.
  [[nodiscard]] std::uint64_t least(std::uint64_t bytes) const;
  /// Adds a segment of at least that size and allocates the region.
  [[nodiscard]] Region allocate_with(SegmentId segment, std::uint64_t segment_bytes, std::uint64_t bytes);
  void add_segment(SegmentId segment, std::uint64_t bytes, Use use = Use::shared);
  /// Only segments that are wholly free may be removed.
  void remove_segment(SegmentId segment);
  /// bytes >= 1. At least 64-byte aligned; large regions are page aligned. Nothing if no segment has room.
  [[nodiscard]] std::optional<Region> allocate(std::uint64_t bytes);
  /// `offset` must be the start of an allocated region; anything else ends the process.
  void free(SegmentId segment, std::uint64_t offset);
  /// The allocated region that contains this offset.
  [[nodiscard]] std::optional<Region> find(SegmentId segment, std::uint64_t offset) const;

  [[nodiscard]] std::uint64_t allocated_bytes() const { return allocated_bytes_; }  ///< padding included
  [[nodiscard]] std::uint64_t segment_bytes() const { return segment_bytes_; }      ///< of all segments together
  /// Segments in which no region is allocated.
  [[nodiscard]] std::vector<SegmentId> free_segments() const;
  [[nodiscard]] bool has_free_segment() const { return used_segments_ < segments_.size(); }
  [[nodiscard]] bool is_free(SegmentId segment) const { return segments_.at(segment).regions == 0; }
  [[nodiscard]] std::uint64_t wholly_free_bytes() const { return segment_bytes_ - used_segment_bytes_; }
  [[nodiscard]] std::uint64_t shared_bytes() const { return shared_bytes_; }  ///< of shared segments together
  [[nodiscard]] std::uint64_t bytes_of(SegmentId segment) const { return segments_.at(segment).bytes; }
  [[nodiscard]] Use use_of(SegmentId segment) const { return segments_.at(segment).use; }

 private:
  static constexpr std::size_t class_count = 32;
  static constexpr std::uint32_t none = 0xffffffff;
  using SlabOfPage = std::array<std::uint32_t, 256>;  ///< `none` for a page in no slab

  /// Free segments for single regions in the order of choice: the smallest first, and of equal ones the latest freed.
  struct OwnKey {
    std::uint64_t bytes;
    std::uint64_t age;
    SegmentId segment;
    auto operator<=>(const OwnKey&) const = default;
  };
  struct Segment {
    std::uint64_t bytes = 0;
    std::uint64_t regions = 0;
    Use use = Use::shared;
    std::uint64_t freed = 0;                                ///< for Use::own: the number of the free that made it free
    std::vector<std::unique_ptr<SlabOfPage>> slab_of_page;  ///< one table for each MiB that has ever had a slab
    std::set<OwnKey>::node_type node;  ///< for Use::own, while it is taken: its node for when it is free
  };
  /// A slab of slots of one size. Slots that were never used follow the others. Freed ones are linked, the latest
  /// first.
  struct Slab {
    SegmentId segment;
    Segment* home = nullptr;
    std::uint64_t offset = 0;
    std::uint32_t size_class = 0;
    std::uint32_t used = 0;
    std::uint32_t previous = none;  ///< in the list of slabs of this class that have room
    std::uint32_t next = none;
    std::uint16_t free_slot = 0;
    std::uint16_t untouched_slot = 0;
    std::vector<std::uint16_t> links;  ///< per slot: the next free one, or that it is taken
  };

  [[nodiscard]] static OwnKey own_key(SegmentId id, const Segment& segment) {
    return {segment.bytes, ~segment.freed, id};
  }
  [[nodiscard]] std::uint64_t own_bytes_min() const;
  [[nodiscard]] std::optional<Region> allocate_own(std::uint64_t bytes);
  [[nodiscard]] std::optional<Region> allocate_shared(std::uint64_t bytes);
  [[nodiscard]] std::optional<Region> counted(std::optional<Region> region);
  void free_own(SegmentId id, Segment& segment, std::uint64_t offset);
  void count_region(Segment& segment) {
    if (segment.regions++ > 0) return;
    ++used_segments_;
    used_segment_bytes_ += segment.bytes;
  }
  void forget_region(Segment& segment) {
    if (--segment.regions > 0) return;
    --used_segments_;
    used_segment_bytes_ -= segment.bytes;
  }
  [[nodiscard]] static std::uint32_t class_of(std::uint64_t bytes);
  [[nodiscard]] static std::uint32_t class_bytes(std::uint32_t size_class);
  [[nodiscard]] static std::uint32_t slots_of(std::uint32_t size_class);
  [[nodiscard]] Segment& segment_of(SegmentId segment);
  [[nodiscard]] std::uint32_t slab_at(const Segment& segment, std::uint64_t offset) const;
  [[nodiscard]] std::optional<Region> allocate_small(std::uint32_t size_class);
  [[nodiscard]] std::optional<Region> allocate_pages(std::uint64_t bytes);
  [[nodiscard]] std::optional<Extents::Extent> take_extent(std::uint64_t bytes);
  [[nodiscard]] bool make_slab(std::uint32_t size_class);
  void free_small(Segment& segment, std::uint32_t slab, std::uint64_t offset);
  void drop_slab(std::uint32_t slab);
  /// Drops the empty slabs of one segment, or of all. True if there were any.
  bool drop_empty_slabs(SegmentId segment = {});
  static void make_tables(Segment& segment, std::uint64_t offset);
  static void map_slab(const Slab& slab, std::uint32_t index);
  void link(std::uint32_t slab);
  void unlink(std::uint32_t slab);

  std::uint64_t size_;  ///< how many times larger all segments are than with most_segments
  Extents extents_;     ///< of shared segments
  std::unordered_map<SegmentId, Segment> segments_;
  std::set<OwnKey> free_own_;
  std::uint64_t own_frees_ = 0;
  std::vector<Slab> slabs_;
  std::vector<std::uint32_t> unused_slabs_;                      ///< places in slabs_
  std::array<std::uint32_t, class_count> with_room_ = filled();  ///< first slab of each class that has a free slot
  std::uint64_t allocated_bytes_ = 0;
  std::uint64_t segment_bytes_ = 0;
  std::uint64_t shared_bytes_ = 0;  ///< of shared segments together
  std::size_t used_segments_ = 0;   ///< segments with regions
  std::uint64_t used_segment_bytes_ = 0;

  static constexpr std::array<std::uint32_t, class_count> filled() {
    std::array<std::uint32_t, class_count> slabs{};
    slabs.fill(none);
    return slabs;
  }
};

}  // namespace muster::ipc
