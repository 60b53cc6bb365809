// What a worker sets of NCCL's environment before it opens NCCL. What the user has set stays.
#pragma once

#include <string>
#include <vector>

namespace musterd::gpu {

/// The variables of NCCL that are set for this process: "NCCL_DEBUG=INFO".
[[nodiscard]] std::vector<std::string> nccl_variables();

/// All GPUs are on one node, so NCCL needs no network but the loopback; and all workers of a node would listen for its
/// RAS clients on the same port. Before any thread is started.
void set_nccl_variables();

}  // namespace musterd::gpu
