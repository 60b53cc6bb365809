#include "opening.hpp"

#include <algorithm>

#include "device/cuda.hpp"

namespace muster::detail {

Opening::~Opening() {
  for (const auto* address : on_gpus)
    if (auto cuda = Cuda::get()) static_cast<void>((*cuda)->finish(address));
  if (has_pinned) static_cast<void>(Cuda::finish_on(Device::pinned(), nullptr));
  for (const auto segment : mapped) segments.unuse(segment);
}

namespace {

Result<const std::byte*> map_into(Opening& opening, ipc::SegmentId segment, Device device) {
  auto& mapped = opening.mapped;
  if (mapped.size() == mapped.capacity()) mapped.reserve(2 * mapped.size());
  if (!device.is_host()) opening.on_gpus.reserve(opening.on_gpus.size() + 1);
  auto base = opening.segments.use(segment, device);
  if (!base) return base;
  opening.mapped.push_back(segment);
  if (!device.is_host()) opening.on_gpus.push_back(*base);
  opening.has_pinned |= device == Device::pinned();
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
      opened.views.emplace_back(opening, nothing, leaf.dtype, std::move(shape), leaf.device);
      continue;
    }
    if (leaf.segment != mapped) {
      auto found = map_into(*opening, leaf.segment, leaf.device);
      if (!found) return found.error();
      base = *found;
      mapped = leaf.segment;
    }
    opened.views.emplace_back(opening, base + leaf.offset, leaf.dtype, std::move(shape), leaf.device);
  }
  return opened;
}

}  // namespace muster::detail
