#include "store/leaf_index.hpp"

#include <algorithm>
#include <tuple>

namespace musterd {

using muster::ipc::Leaf;

bool LeafIndex::contains(std::size_t leaf, const Leaf& part) const {
  const Leaf& whole = leaves_[leaf];
  return part.segment == whole.segment && part.offset >= whole.offset && part.offset - whole.offset <= whole.bytes() &&
         part.bytes() <= whole.bytes() - (part.offset - whole.offset);
}

std::optional<std::size_t> LeafIndex::find(const Leaf& part) {
  // Parts mostly follow the order of their whole: slices of one leaf, or one leaf after the other.
  for (std::size_t leaf = next_; leaf < std::min(next_ + 2, leaves_.size()); ++leaf)
    if (contains(leaf, part)) return next_ = leaf;
  if (starts_.empty()) sort();
  const auto after = std::upper_bound(starts_.begin(), starts_.end(), part, [](const Leaf& wanted, const Start& start) {
    return std::tie(wanted.segment, wanted.offset) < std::tie(start.segment, start.offset);
  });
  if (after == starts_.begin()) return std::nullopt;
  const std::size_t leaf = starts_[std::prev(after)->furthest].leaf;
  if (!contains(leaf, part)) return std::nullopt;
  return next_ = leaf;
}

void LeafIndex::sort() {
  starts_.reserve(leaves_.size());
  for (std::size_t leaf = 0; leaf < leaves_.size(); ++leaf)
    if (leaves_[leaf].bytes() != 0)
      starts_.push_back(
          {leaves_[leaf].segment, leaves_[leaf].offset, leaves_[leaf].offset + leaves_[leaf].bytes(), leaf, 0});
  std::sort(starts_.begin(), starts_.end(), [](const Start& a, const Start& b) {
    return std::tie(a.segment, a.offset) < std::tie(b.segment, b.offset);
  });
  for (std::size_t i = 0; i < starts_.size(); ++i) {
    const bool first = i == 0 || starts_[i - 1].segment != starts_[i].segment;
    const std::size_t before = first ? i : starts_[i - 1].furthest;
    starts_[i].furthest = starts_[before].end >= starts_[i].end ? before : i;
  }
}

}  // namespace musterd
