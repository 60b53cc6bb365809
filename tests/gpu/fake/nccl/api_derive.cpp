// NCCL User Guide, "Communicator Creation and Management Functions": communicators that are made of others.
#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>

#include "call.hpp"

using namespace fake_nccl;

namespace {

template <class T>
Bytes as_bytes(const T& value) {
  const auto* begin = reinterpret_cast<const char*>(&value);
  return {begin, begin + sizeof(value)};
}

template <class T>
T from_bytes(const Bytes& bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(value));
  return value;
}

Config config_of_child(const Communicator& parent, const ncclConfig_t* given) {
  return given != nullptr ? parse_config(given) : parent.config();
}

/// The first of the members makes an id for all. `members` are ranks of the parent, in the order of the new ones.
void make_child(Communicator& parent, const std::vector<int>& members, const Config& config, ncclComm_t* made) {
  auto& mesh = parent.mesh();
  const auto leader = members.front();
  if (leader == parent.rank()) {
    const auto id = make_unique_id();
    for (const int member : members) mesh.post(member, {Topic::control, {}, as_bytes(id)});
  }
  const auto id = from_bytes<ncclUniqueId>(await(mesh, leader, Topic::control, parent.give_up()).payload);
  const auto rank = std::find(members.begin(), members.end(), parent.rank()) - members.begin();
  const auto child =
      Communicator::make(parent.device(), static_cast<int>(members.size()), static_cast<int>(rank), config);
  try {
    child->join(id, parent.give_up());
  } catch (const Failure&) {
    child->abort();
    throw;
  }
  *made = child->handle();
}

struct Choice {
  int color = 0;
  int key = 0;
};

// "ncclCommSplit": ranks with one color, in the order of their keys, and of their ranks where keys are equal.
void split(Communicator& parent, Choice own, const Config& config, ncclComm_t* made) {
  auto& mesh = parent.mesh();
  for (int peer = 0; peer < parent.ranks(); ++peer) mesh.post(peer, {Topic::control, {}, as_bytes(own)});
  std::vector<std::pair<int, int>> chosen;
  for (int peer = 0; peer < parent.ranks(); ++peer) {
    const auto other = from_bytes<Choice>(await(mesh, peer, Topic::control, parent.give_up()).payload);
    if (other.color == own.color) chosen.emplace_back(other.key, peer);
  }
  if (own.color == NCCL_SPLIT_NOCOLOR) return;
  std::sort(chosen.begin(), chosen.end());
  std::vector<int> members;
  for (const auto& [key, rank] : chosen) members.push_back(rank);
  make_child(parent, members, config, made);
}

/// The id of a grow, from the rank that called ncclCommGetUniqueId, whichever that is.
ncclUniqueId id_of_grow(Communicator& parent) {
  if (parent.grow_id) return *std::exchange(parent.grow_id, std::nullopt);
  while (!parent.stopped())
    for (int peer = 0; peer < parent.ranks(); ++peer)
      if (const auto frame = parent.mesh().take(peer, Topic::grow, [] { return true; }))
        return from_bytes<ncclUniqueId>(frame->payload);
  throw Failure{ncclInternalError, "the grow was aborted"};
}

void require_room(const ncclComm_t* made) { require_argument(made != nullptr, "newcomm argument is NULL"); }

std::shared_ptr<Communicator> grown(const std::shared_ptr<Communicator>& parent, int ranks, const ncclUniqueId* id,
                                    int rank, const ncclConfig_t* config) {
  if (parent) {
    require_argument(rank == -1, "existing ranks must pass rank=-1");
    require_argument(ranks > parent->ranks(), "total ranks must be more than current ranks");
    return Communicator::make(parent->device(), ranks, parent->rank(), config_of_child(*parent, config));
  }
  require_argument(id != nullptr, "new ranks must pass a uniqueId");
  require_unique_id(*id);
  require_argument(rank >= 0 && rank < ranks, "new ranks must pass a rank below the total");
  return Communicator::make(current_device(), ranks, rank, parse_config(config));
}

}  // namespace

extern "C" {

// "ncclCommSplit": all ranks of the communicator call it. The new communicator is there when it is ready.
ncclResult_t ncclCommSplit(ncclComm_t handle, int color, int key, ncclComm_t* made, ncclConfig_t* given) {
  return call([&] {
    const auto parent = Communicator::find(handle);
    inject("ncclCommSplit", parent->device().ordinal);
    require_room(made);
    parent->require_ready();
    require_argument(color >= 0 || color == NCCL_SPLIT_NOCOLOR, "Invalid color");
    *made = nullptr;
    const auto config = config_of_child(*parent, given);
    const Choice choice{color, key};
    return submit(
        Job{parent, [parent, choice, config, made] { split(*parent, choice, config, made); }, nullptr, false});
  });
}

// "ncclCommShrink": the ranks that stay call it, and no others. With NCCL_SHRINK_ABORT it ends first what runs, and
// goes on after an error of the communicator.
ncclResult_t ncclCommShrink(ncclComm_t handle, int* excluded, int number, ncclComm_t* made, ncclConfig_t* given,
                            int flags) {
  return call([&] {
    const auto parent = Communicator::find(handle);
    inject("ncclCommShrink", parent->device().ordinal);
    require_room(made);
    require_argument(excluded != nullptr && number > 0, "Invalid list of excluded ranks");
    require_argument(flags == NCCL_SHRINK_DEFAULT || flags == NCCL_SHRINK_ABORT, "Invalid shrinkFlags");
    const std::set<int> left_out(excluded, excluded + number);
    require_argument(!left_out.contains(parent->rank()), "excluded ranks must not call ncclCommShrink");
    require_argument(*left_out.begin() >= 0 && *left_out.rbegin() < parent->ranks(), "Invalid excluded rank");
    if (flags == NCCL_SHRINK_ABORT) parent->abort_operations();
    else parent->require_ready();
    *made = nullptr;
    std::vector<int> members;
    for (int rank = 0; rank < parent->ranks(); ++rank)
      if (!left_out.contains(rank)) members.push_back(rank);
    const auto config = config_of_child(*parent, given);
    return submit(
        Job{parent, [parent, members, config, made] { make_child(*parent, members, config, made); }, nullptr, false});
  });
}

// "ncclCommGetUniqueId": one rank calls it before each grow; the others learn of the id through the communicator.
ncclResult_t ncclCommGetUniqueId(ncclComm_t handle, ncclUniqueId* id) {
  return call([&] {
    const auto parent = Communicator::find(handle);
    inject("ncclCommGetUniqueId", parent->device().ordinal);
    parent->require_ready();
    require_argument(id != nullptr, "uniqueId argument is NULL");
    require(!parent->grow_id, ncclInvalidUsage, "the unique id before this one has not been used");
    *id = make_unique_id();
    parent->grow_id = *id;
    for (int peer = 0; peer < parent->ranks(); ++peer)
      if (peer != parent->rank()) parent->mesh().post(peer, {Topic::grow, {}, as_bytes(*id)});
    return ncclSuccess;
  });
}

// "ncclCommGrow": ranks that are there keep their number, and give -1; new ones have no communicator, and an id.
ncclResult_t ncclCommGrow(ncclComm_t handle, int ranks, const ncclUniqueId* id, int rank, ncclComm_t* made,
                          ncclConfig_t* given) {
  return call([&] {
    require_room(made);
    *made = nullptr;
    const auto parent = handle != nullptr ? Communicator::find(handle) : nullptr;
    inject("ncclCommGrow", parent ? parent->device().ordinal : device_of_thread());
    if (parent) parent->require_ready();
    const auto child = grown(parent, ranks, id, rank, given);
    if (!child->blocking()) *made = child->handle();
    Job job;
    job.communicator = child;
    job.run = [parent, child, own = parent ? ncclUniqueId{} : *id] {
      const auto give_up = [&] { return parent && parent->stopped(); };
      child->join(parent ? id_of_grow(*parent) : own, give_up);
    };
    job.after = [child, made](ncclResult_t code) {
      if (!child->blocking()) return;
      if (code == ncclSuccess) *made = child->handle();
      else child->abort();
    };
    return submit(std::move(job));
  });
}

}  // extern "C"
