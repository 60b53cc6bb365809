#include "opening.hpp"

#include <algorithm>
#include <string>

#include "core/connection.hpp"

namespace muster::detail {

Opening::~Opening() {
  for (const auto segment : mapped) hold->connection->segments().unuse(segment);
}

namespace {

Result<const std::byte*> map_into(Opening& opening, ipc::SegmentId segment) {
  auto& mapped = opening.mapped;
  if (mapped.size() == mapped.capacity()) mapped.reserve(2 * mapped.size());
  auto base = opening.hold->connection->segments().use(segment);
  if (base) opening.mapped.push_back(segment);
  return base;
}

/// Where the hold says that the object lies.
Result<Opened> open_there(std::shared_ptr<const Hold> hold) {
  // Arrays without bytes still need an address.
  static const std::byte nothing[64] = {};
  const auto& manifest = hold->manifest;
  const auto opening = std::make_shared<Opening>(std::move(hold));
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

}  // namespace

Result<Opened> open(const std::shared_ptr<const Hold>& given) {
  // It may move again before its new place is mapped, but hardly more often than it has arrays.
  constexpr int moves_max = 8;
  for (int moves = 0;; ++moves) {
    auto hold = usable(given);
    if (!hold) return hold.error();
    auto opened = open_there(*hold);
    if (opened || opened.error().code() != Code::invalid) return opened;
    auto moved = has_moved(**hold);
    if (!moved) return moved.error();
    if (!*moved) return opened;
    if (moves == moves_max)
      return Error(Code::timeout, "the object moved " + std::to_string(moves_max) + " times while it was opened",
                   "open it again: it moves only while the daemon puts the remains of dead clients together");
  }
}

}  // namespace muster::detail
