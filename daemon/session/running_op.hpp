// An op that has its muster complete, until its outcome is decided.
#pragma once

#include <algorithm>
#include <boost/intrusive/list.hpp>
#include <boost/intrusive/set.hpp>
#include <cstdint>
#include <optional>
#include <unordered_map>

#include <muster/ipc/small_vector.hpp>

#include "base/time.hpp"
#include "collective/plan.hpp"
#include "memory/admission.hpp"
#include "memory/ledger.hpp"
#include "memory/result_pool.hpp"
#include "session/group_state.hpp"
#include "store/store.hpp"

namespace musterd {

/// Without an allocation, and gone from the list with its op.
using WaitingHook = boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
/// Once it has its memory, by deadline: the same.
using DueHook = boost::intrusive::set_base_hook<boost::intrusive::tag<struct OfDue>,
                                                boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
/// Planned, or not yet, perhaps waiting for memory, perhaps with a lane.
struct RunningOp : WaitingHook, DueHook {
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
  Charge heap;                                ///< of an op that is not over at once: it waits, or is with a lane
  std::optional<Admission::WaiterId> waiter;  ///< while it waits for memory
  bool put_aside = false;                     ///< it waits without its plan
  std::uint64_t wanted_at = 0;                ///< how many clients had gone when somebody was there to be told
  TimePoint deadline;                         ///< once it has its memory
  bool with_lane = false;                     ///< which may touch its inputs and regions
  bool failed = false;                        ///< that has been told: it is here until its lane is quiet
};

/// Jobs up to this size run on the control thread: to hand them to a lane would take longer.
inline constexpr std::uint64_t at_once_bytes_max = 256 << 10;

/// The first one of its ranks'.
[[nodiscard]] inline TimePoint deadline_of(const Op& op) {
  return std::ranges::min_element(op.contributions, {}, &Contribution::deadline)->deadline;
}

using RunningOps = std::unordered_map<std::uint64_t, RunningOp>;  ///< by key
using Objects = muster::ipc::SmallVector<ObjectPtr, 2>;

}  // namespace musterd
