// What the collective layer knows of an object: where its bytes are and what they mean, kept readable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <muster/ipc/manifest.hpp>

#include "memory/place.hpp"

namespace musterd {

struct Input {
  std::shared_ptr<const void> keeper;  ///< keeps the regions readable and owns what the others point to
  const muster::ipc::Manifest* manifest = nullptr;
  std::span<const SegmentMemory* const> memories;  ///< behind each leaf; null for leaves without bytes

  [[nodiscard]] Place place(std::size_t leaf) const { return {memories[leaf], manifest->leaves[leaf].offset}; }
};

}  // namespace musterd
