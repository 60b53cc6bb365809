// A region that a buffer writes into. It goes back to the arena if the buffer is destroyed without being sealed.
#pragma once

#include <memory>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/ids.hpp>

#include "memory/arena.hpp"

namespace muster::detail {

class Connection;

struct Lease {
  std::shared_ptr<Connection> connection;
  ArenaRegion region;
  bool finished = false;  ///< nobody works on the region on its GPU any more
  LeasedSegment hard;     ///< for a hard lease: a segment of its own, outside the arena
  Lease() = default;
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();
};

}  // namespace muster::detail
