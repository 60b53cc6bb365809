#include "opening.hpp"

#include <algorithm>

namespace muster::detail {

Opening::~Opening() {
  for (const auto segment : mapped) segments.unuse(segment);
}

namespace {

Result<const std::byte*> map_into(Opening& opening, ipc::SegmentId segment) {
  auto& mapped = opening.mapped;
  if (mapped.size() == mapped.capacity()) mapped.reserve(2 * mapped.size());
  auto base = opening.segments.use(segment);
  if (base) opening.mapped.push_back(segment);
  return base;
}

}  // namespace

Result<Opened> open_there(std::shared_ptr<const Hold> hold, Segments& segments) {
  // An array without bytes still needs an address.
  static const std::byte nothing[64] = {};
  const auto& manifest = hold->manifest;
  const auto opening = std::make_shared<Opening>(std::move(hold), segments);
  Opened opened{opening, {}};
  opened.views.reserve(manifest.leaves.size());
  ipc::SegmentId mapped;
  const std::byte* base = nullptr;
  for (const auto& leaf : manifest.leaves) {
    const auto dims = manifest.shape(leaf);
    Shape shape(dims.begin(), dims.end());
    if (leaf.bytes() == 0) {
      opened.views.emplace_back(opening, nothing, leaf.dtype, std::move(shape));
      continue;
    }
    if (leaf.segment != mapped) {
      auto found = map_into(*opening, leaf.segment);
      if (!found) return found.error();
      base = *found;
      mapped = leaf.segment;
    }
    opened.views.emplace_back(opening, base + leaf.offset, leaf.dtype, std::move(shape));
  }
  return opened;
}

}  // namespace muster::detail
