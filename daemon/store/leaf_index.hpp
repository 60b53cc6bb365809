// Finds the leaf of an object that a stretch of bytes lies in. A part names bytes of its whole in any order, and both
// may have up to `object_leaves_max` leaves. So the control thread must not walk over the whole's leaves for each leaf
// of the part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <muster/ipc/manifest.hpp>

namespace musterd {

class LeafIndex {
 public:
  /// `leaves` must outlive the index and stay as they are.
  explicit LeafIndex(std::span<const muster::ipc::Leaf> leaves) : leaves_(leaves) {}

  /// A leaf that contains every byte of `part`, which must have at least one byte.
  [[nodiscard]] std::optional<std::size_t> find(const muster::ipc::Leaf& part);

 private:
  /// Where a leaf begins. It is small, as most of the time goes into waiting for the memory that the starts lie in.
  struct Start {
    std::uint64_t offset = 0;
    muster::ipc::SegmentId segment;
    std::uint32_t leaf = 0;
  };
  [[nodiscard]] static bool comes_before(const Start& a, const Start& b) {
    return a.segment != b.segment ? a.segment < b.segment : a.offset < b.offset;
  }
  [[nodiscard]] bool contains(std::size_t leaf, const muster::ipc::Leaf& part) const;
  void sort();

  std::span<const muster::ipc::Leaf> leaves_;
  std::size_t next_ = 0;
  std::vector<Start> starts_;  ///< sorted; empty before the first part that is out of order
  std::vector<std::uint32_t>
      furthest_;  ///< for each start: of the leaves up to it in its segment, the one that ends last
};

}  // namespace musterd
