// Rank and world size as launchers put them into the environment.
#pragma once

#include <optional>

namespace muster::detail {

struct Placement {
  int rank = 0;
  int world_size = 0;
};

/// Of muster run, torchrun, Open MPI and Slurm, in this order; nothing if none of them started this process.
[[nodiscard]] std::optional<Placement> placement_from_environment();

}  // namespace muster::detail
