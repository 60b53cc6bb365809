// Finds the leaf of an object that a stretch of bytes lies in. A part names its whole's bytes, in any order and with
// up to `leaves_max` leaves on both sides, so neither side may cost the control thread a walk over the other.
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

  /// A leaf that contains every byte of `part`, which has at least one.
  [[nodiscard]] std::optional<std::size_t> find(const muster::ipc::Leaf& part);

 private:
  /// Where a leaf begins. Small, as most of the time goes into waiting for the memory that these lie in.
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
  std::vector<Start> starts_;            ///< sorted; empty before the first part that is out of order
  std::vector<std::uint32_t> furthest_;  ///< leaves: of a start and all before it in its segment, what ends last
};

}  // namespace musterd
