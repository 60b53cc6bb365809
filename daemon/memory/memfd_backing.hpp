// Segments of host memory: memfds. The one safe order is: create, the writer maps, seal, then readers. All system calls
// about segments are here.
#pragma once

#include "memory/backing.hpp"

namespace musterd {

class MemfdBacking final : public SegmentBacking {
 public:
  [[nodiscard]] Limits limits() const noexcept override;
  [[nodiscard]] muster::Result<SegmentMemoryPtr> create(const SegmentSpec& spec) override;
};

}  // namespace musterd
