// An op that has its muster complete, until its outcome is decided.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <optional>
#include <unordered_map>

#include <muster/ipc/small_vector.hpp>

#include "collective/plan.hpp"
#include "memory/admission.hpp"
#include "memory/ledger.hpp"
#include "memory/result_pool.hpp"
#include "session/group_state.hpp"
#include "store/store.hpp"

namespace musterd {

/// Without an allocation, and gone from the list with its op.
using WaitingHook = boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
/// Planned, or not yet, perhaps waiting for memory, perhaps on the lanes.
struct RunningOp : WaitingHook {
  std::uint64_t key = 0;
  OpPtr op;
  Plan plan;
  GroupPtr group;  ///< null for combines
  std::uint32_t user = 0;
  PoolApart apart;  ///< where its results lie, if they must not lie beside the group's others
  muster::ipc::SmallVector<ResultRegion, 1> regions;
  std::size_t regions_made = 0;  ///< how many of them have memory
  std::uint64_t result_bytes = 0;
  bool planned = false;
  std::uint64_t plan_bytes = 0;               ///< at most, before it is planned
  Charge plan_charge;                         ///< of a large plan, while it runs
  Charge heap;                                ///< of an op that is not over at once: it waits, or is with the lanes
  std::optional<Admission::WaiterId> waiter;  ///< while it waits for memory
  bool put_aside = false;                     ///< it waits without its plan
  std::uint64_t wanted_at = 0;                ///< how many clients had gone when somebody was there to be told
};
using RunningOps = std::unordered_map<std::uint64_t, RunningOp>;  ///< by key
using Objects = muster::ipc::SmallVector<ObjectPtr, 2>;

}  // namespace musterd
