// Rank and world size as launchers put them into the environment.
#pragma once

#include <string>

#include <muster/result.hpp>

namespace muster::detail {

/// Where a launcher has put this process.
struct Placement {
  int rank = 0;
  int world_size = 0;
};

/// Reads the variables of muster run, torchrun, Open MPI and Slurm, in this order. Invalid if none of them started this
/// process, or if the rank is out of range; the message names the variables and their values.
[[nodiscard]] Result<Placement> placement_from_environment();

}  // namespace muster::detail
