// What the collective layer knows of an object: where its bytes are and what they mean. The bytes stay readable
// meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <muster/ipc/manifest.hpp>

#include "memory/place.hpp"

namespace musterd {

struct Input {
  std::shared_ptr<const void> keeper;  ///< keeps the regions readable, and owns what the other members point to
  const muster::ipc::Manifest* manifest = nullptr;
  std::span<const SegmentMemory* const> memories;  ///< the memory of each leaf; null for leaves without bytes
  bool in_place = false;                           ///< some of it was left in place, and may be lost with its owner

  [[nodiscard]] Place place(std::size_t leaf) const { return {memories[leaf], manifest->leaves[leaf].offset}; }
};

}  // namespace musterd
