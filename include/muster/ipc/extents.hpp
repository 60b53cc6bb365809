// Whole pages of segments: best fit over free extents that coalesce, the most recently freed first among equals.
// Bookkeeping only: it never touches the memory. RegionAllocator cuts small regions out of what it hands out.
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

/// A broken invariant of ours or of the caller ends the process: going on would hand memory out twice.
[[noreturn]] void allocator_misused(const char* what, SegmentId segment, std::uint64_t offset);

class Extents {
 public:
  struct Extent {
    SegmentId segment;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };

  /// Whole pages only; what is left over at the end is not used.
  void add_segment(SegmentId segment, std::uint64_t bytes);
  /// Nothing of it may be taken.
  void remove_segment(SegmentId segment);
  /// `bytes`: a multiple of the page. A segment that is in use goes before one that is wholly free.
  [[nodiscard]] std::optional<Extent> take(std::uint64_t bytes);
  /// Gives back the taken extent that starts here; returns its bytes. Never needs memory, so it can't fail.
  std::uint64_t give(SegmentId segment, std::uint64_t offset);
  /// The taken extent that contains this offset.
  [[nodiscard]] std::optional<Extent> find(SegmentId segment, std::uint64_t offset) const;

 private:
  /// The order in which free pieces are looked through.
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
    std::uint64_t freed = 0;        ///< when, counted in frees; 0: taken
    std::set<Key>::node_type node;  ///< while it is taken: for when it is free
  };
  /// All pieces by offset, free and taken, without gaps; no two free ones are neighbours.
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
