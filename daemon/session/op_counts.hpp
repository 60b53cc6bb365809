// Counts of ops and of their bytes.
#pragma once

#include <cstdint>

namespace musterd {

/// Since the start.
struct OpCounts {
  std::uint64_t ops_done = 0;
  std::uint64_t ops_failed = 0;
  std::uint64_t bytes_reduced = 0;
};

}  // namespace musterd
