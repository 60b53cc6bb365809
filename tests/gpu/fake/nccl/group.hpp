// ncclGroupStart and ncclGroupEnd, and how each call runs in a group and outside.
#pragma once

#include <functional>
#include <memory>

#include "operation.hpp"

namespace fake_nccl {

/// What a call does that concerns other ranks.
struct Job {
  std::shared_ptr<Communicator> communicator;  // whose blocking mode and state count
  std::function<void()> run;
  std::function<void(ncclResult_t)> after;  // optional
  bool waits = false;                       // runs on the caller's thread in both modes
};

/// Runs the job now, or at the end of the group. Of a communicator that isn't blocking it runs in the background.
ncclResult_t submit(Job job);
ncclResult_t submit(const std::shared_ptr<Communicator>& communicator, Operation operation);

void start_group();
ncclResult_t end_group();
/// Remembers that a call in the group failed.
void fail_group(ncclResult_t code);

}  // namespace fake_nccl
