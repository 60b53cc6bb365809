// Does the work of ops over several devices in memory of the host: what GPUs and NCCL do, value by value.
#pragma once

#include "collective/lane.hpp"

namespace musterd::testing {

void run_over_devices(const Job& job);

}  // namespace musterd::testing
