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
  /// The leaves by where they begin; `furthest` is the one of this and all before it in its segment that ends last.
  struct Start {
    muster::ipc::SegmentId segment;
    std::uint64_t offset = 0;
    std::uint64_t end = 0;
    std::size_t leaf = 0;
    std::size_t furthest = 0;
  };
  [[nodiscard]] bool contains(std::size_t leaf, const muster::ipc::Leaf& part) const;
  void sort();

  std::span<const muster::ipc::Leaf> leaves_;
  std::size_t next_ = 0;
  std::vector<Start> starts_;
};

}  // namespace musterd
