#include "store/leaf_index.hpp"

#include <algorithm>

namespace musterd {

using muster::ipc::Leaf;

bool LeafIndex::contains(std::size_t leaf, const Leaf& part) const {
  const Leaf& whole = leaves_[leaf];
  return part.segment == whole.segment && part.offset >= whole.offset && part.offset - whole.offset <= whole.bytes() &&
         part.bytes() <= whole.bytes() - (part.offset - whole.offset);
}

std::optional<std::size_t> LeafIndex::find(const Leaf& part) {
  // Parts usually follow the order of their whole: slices of one leaf, or one leaf after the other.
  for (std::size_t leaf = next_; leaf < std::min(next_ + 2, leaves_.size()); ++leaf)
    if (contains(leaf, part)) return next_ = leaf;
  if (starts_.empty()) sort();
  const auto after =
      std::upper_bound(starts_.begin(), starts_.end(), Start{part.offset, part.segment, 0}, comes_before);
  if (after == starts_.begin()) return std::nullopt;
  const std::size_t leaf = furthest_[static_cast<std::size_t>(std::prev(after) - starts_.begin())];
  if (!contains(leaf, part)) return std::nullopt;
  return next_ = leaf;
}

void LeafIndex::sort() {
  starts_.reserve(leaves_.size());
  for (std::uint32_t leaf = 0; leaf < leaves_.size(); ++leaf)
    if (leaves_[leaf].bytes() != 0) starts_.push_back({leaves_[leaf].offset, leaves_[leaf].segment, leaf});
  if (!std::is_sorted(starts_.begin(), starts_.end(), comes_before))
    std::sort(starts_.begin(), starts_.end(), comes_before);
  furthest_.reserve(starts_.size());
  std::uint64_t last_end = 0;
  for (std::size_t i = 0; i < starts_.size(); ++i) {
    const bool first = i == 0 || starts_[i - 1].segment != starts_[i].segment;
    const std::uint64_t end = starts_[i].offset + leaves_[starts_[i].leaf].bytes();
    const bool is_furthest = first || end > last_end;
    furthest_.push_back(is_furthest ? starts_[i].leaf : furthest_.back());
    if (is_furthest) last_end = end;
  }
}

}  // namespace musterd
