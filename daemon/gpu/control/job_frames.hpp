// A job as frames for a GPU's worker.
#pragma once

#include <cstdint>
#include <vector>

#include "collective/lane.hpp"
#include "gpu/worker_frames.hpp"

namespace musterd::gpu {

/// The number of a communicator, which is never used again. 0: none.
using CommunicatorId = std::uint64_t;

/// A GPU's place in a communicator.
struct CommunicatorSeat {
  CommunicatorId communicator = 0;
  std::uint32_t rank = 0;
};

/// What the device of this rank does of a job over several: its own folds and copies, its part in each exchange, and
/// its transfers. All places that it touches are known then: no source lies in an output. Without `ended` and `quiet`.
[[nodiscard]] Job part_of(const Job& whole, std::uint32_t rank);

/// The job's work, in frames that each fit into a packet. All of its places must be in memory of this GPU, or nowhere.
/// Each exchange must have one part, that of this GPU. `seat`: where exchanges and transfers are done.
[[nodiscard]] std::vector<WorkerFrame> job_frames(const Job& job, CommunicatorSeat seat = {});

}  // namespace musterd::gpu
