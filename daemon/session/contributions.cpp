#include "session/contributions.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/time_limits.hpp>

#include "collective/muster.hpp"
#include "session/works.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

namespace {

/// Finding and checking inputs takes time in proportion to their number, and everybody else waits for it.
constexpr std::size_t refs_per_call_max = std::size_t{1} << 16;
constexpr std::size_t leaves_per_call_max = std::size_t{1} << 18;
constexpr std::size_t structure_bytes_per_call_max = std::size_t{8} << 20;

Input input_of(const ObjectPtr& object) {
  return {object, &object->manifest, {object->memories.data(), object->memories.size()}, object->in_place};
}

}  // namespace

Duration bounded(std::int64_t timeout_ns) {
  return std::clamp<Duration>(Duration(timeout_ns), Duration(0), muster::ipc::timeout_max);
}

Result<Inputs> find_inputs(const Store& store, const Client& client, std::span<const ObjectId> objects) {
  Result<Inputs> found(std::in_place);
  Inputs& inputs = *found;
  const auto at_most = [](std::size_t amount, const char* of_what, std::size_t max) {
    return Error(Code::invalid, fmt::format("the inputs are {} {} in all", amount, of_what),
                 fmt::format("use fewer and larger arrays: one call takes at most {}", max));
  };
  if (objects.size() > refs_per_call_max) return at_most(objects.size(), "objects", refs_per_call_max);
  inputs.reserve(objects.size());
  std::size_t leaves = 0;
  std::size_t structure_bytes = 0;
  for (const ObjectId id : objects) {
    auto object = store.held(id, client.payer());
    if (!object) {
      found = object.error();
      return found;
    }
    leaves += (*object)->manifest.leaves.size();
    structure_bytes += (*object)->manifest.structure.size() + (*object)->manifest.guise.size();
    inputs.push_back(input_of(*object));
  }
  if (leaves > leaves_per_call_max) found = at_most(leaves, "arrays", leaves_per_call_max);
  else if (structure_bytes > structure_bytes_per_call_max)
    found = at_most(structure_bytes, "bytes of names and constants", structure_bytes_per_call_max);
  return found;
}

Result<Charge> charge_op(Ledger& ledger, const Client& client, std::uint64_t heap, bool stopping) {
  if (stopping) return Error(Code::daemon_unavailable, "the daemon is ending", "start it again: muster start");
  constexpr std::uint64_t each = in_table(sizeof(Ticket) + sizeof(Pending)) + Muster::pending_bytes();
  return ledger.charge(client.payer(), Resource::slots, 1, each + heap);
}

}  // namespace musterd
