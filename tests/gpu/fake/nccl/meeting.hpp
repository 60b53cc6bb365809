// How ranks find each other. The maker of a unique id has a thread that waits for all ranks, and then tells each where
// the others listen. If its process ends before, they wait for ever.
#pragma once

#include <memory>
#include <vector>

#include "mesh.hpp"

namespace fake_nccl {

/// What a rank tells the others about itself.
struct Member {
  std::int32_t ranks = 0;
  std::int32_t rank = 0;
  std::int32_t pid = 0;
  std::int32_t only_consumes = 0;  // uses up one of several ids, and isn't told anything
  std::array<char, 16> uuid{};     // of its device
  Address address{};
};

/// Starts the thread, and writes the id. The books don't have it: no call of NCCL's ends it.
ncclUniqueId make_unique_id();
/// Throws ncclInvalidArgument for bytes that ncclGetUniqueId didn't write.
void require_unique_id(const ncclUniqueId& id);
/// Lets the thread of an id go that isn't the first of several.
void consume(const ncclUniqueId& id, int device);

struct Joined {
  std::vector<Member> members;  // by rank
  std::unique_ptr<Mesh> mesh;
};
/// Waits for all ranks, and connects with them. Throws ncclInvalidUsage if another rank has this one's GPU, and
/// ncclRemoteError if one goes meanwhile.
Joined meet(const ncclUniqueId& id, int ranks, int rank, const Device& device, const GiveUp& give_up);

/// Waits for a frame of a peer. Throws ncclRemoteError if the peer is lost, and ncclInternalError when it gives up.
Frame await(Mesh& mesh, int peer, Topic topic, const GiveUp& give_up);

}  // namespace fake_nccl
