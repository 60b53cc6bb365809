// Hands out whole pages of segments: best fit over free extents that coalesce, the most recently freed first among
// equals. It only does the bookkeeping, and never touches the memory. RegionAllocator cuts small regions out of these
// extents.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include <muster/ipc/ids.hpp>

namespace muster::ipc {

inline constexpr std::uint64_t page_bytes = 4096;

/// A broken invariant of ours or of the caller ends the process, as going on would hand out memory twice.
[[noreturn]] void allocator_misused(const char* what, SegmentId segment, std::uint64_t offset);

class Extents {
 public:
  struct Extent {
    SegmentId segment;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };

  /// Only whole pages are used; a rest at the segment's end is not.
  void add_segment(SegmentId segment, std::uint64_t bytes);
  /// No extent of the segment may be taken.
  void remove_segment(SegmentId segment);
  /// `bytes` must be a multiple of the page. A segment in use is preferred to one that is wholly free.
  [[nodiscard]] std::optional<Extent> take(std::uint64_t bytes);
  /// Gives back the taken extent that starts here; returns its bytes. Never needs memory, so it can't fail.
  std::uint64_t give(SegmentId segment, std::uint64_t offset);
  /// The taken extent that contains this offset.
  [[nodiscard]] std::optional<Extent> find(SegmentId segment, std::uint64_t offset) const;

 private:
  /// The order in which free pieces are searched.
  struct Key {
    bool whole_segment;
    std::uint64_t bytes;
    std::uint64_t age;  ///< falls with each free, so that the latest comes first
    SegmentId segment;
    std::uint64_t offset;
    auto operator<=>(const Key&) const = default;
  };
  struct Piece {
    std::uint64_t bytes = 0;
    std::uint64_t freed = 0;        ///< when it was freed, counted in frees; 0: taken
    std::set<Key>::node_type node;  ///< while it is taken: its node for when it is free
  };
  /// All pieces by offset, free and taken, without gaps. No two free pieces are neighbours.
  struct Pages {
    std::uint64_t bytes = 0;
    std::map<std::uint64_t, Piece> pieces;
  };

  [[nodiscard]] static Key key(SegmentId segment, const Pages& pages, std::uint64_t offset, const Piece& piece);
  [[nodiscard]] Pages& pages_of(SegmentId segment);
  void put_among_free(SegmentId segment, const Pages& pages, std::uint64_t offset, Piece& piece);

  std::unordered_map<SegmentId, Pages> segments_;
  std::set<Key> free_;
  std::uint64_t frees_ = 0;
};

}  // namespace muster::ipc
