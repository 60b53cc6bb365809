// An op from its complete muster until its outcome is decided.
#pragma once

#include <boost/intrusive/list.hpp>
#include <boost/intrusive/set.hpp>
#include <cstdint>
#include <optional>
#include <unordered_map>

#include <muster/ipc/small_vector.hpp>
#include <muster/result.hpp>

#include "base/time.hpp"
#include "collective/plan.hpp"
#include "memory/admission.hpp"
#include "memory/ledger.hpp"
#include "memory/result_pool.hpp"
#include "session/group_state.hpp"
#include "store/store.hpp"

namespace musterd {

/// Links ops without an allocation, and takes them out of the list at their end.
using WaitingHook = boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
/// Links ops that have their memory, by deadline, in the same way.
using DueHook = boost::intrusive::set_base_hook<boost::intrusive::tag<struct OfDue>,
                                                boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
/// It may be planned or not, wait for memory, or be with a lane.
struct RunningOp : WaitingHook, DueHook {
  std::uint64_t key = 0;
  OpPtr op;
  Plan plan;
  GroupPtr group;  ///< null for combines
  std::uint32_t user = 0;
  PoolApart apart;  ///< where its results lie if they must not lie beside other results of the group
  muster::ipc::SmallVector<ResultRegion, 1> regions;
  std::size_t regions_made = 0;  ///< how many of them have memory
  std::uint64_t result_bytes = 0;
  bool planned = false;
  std::uint64_t plan_bytes = 0;               ///< the size of the plan; before it is planned, the most that it can be
  Charge plan_charge;                         ///< for a large plan, while the op runs
  Charge heap;                                ///< for an op that is not over at once, as it waits or is with a lane
  std::optional<Admission::WaiterId> waiter;  ///< while it waits for memory
  Resource lacks = Resource::memory;          ///< what it had no room for when it last tried
  bool put_aside = false;                     ///< the op waits without its plan
  std::uint64_t wanted_at = 0;                ///< how many clients had gone when this op was last looked at
  TimePoint deadline;                         ///< set once it has its memory
  bool with_lane = false;                     ///< then the lane may touch its inputs and regions
  bool reads_in_place = false;                ///< an input was left in place: see lost_input()
  bool failed = false;                        ///< its ranks have been told; it stays here until its job is quiet
};

/// Jobs up to this size run on the control thread, as handing them to a lane would take longer.
inline constexpr std::uint64_t at_once_bytes_max = 256 << 10;

/// The earliest deadline of the op's ranks.
[[nodiscard]] TimePoint deadline_of(const Op& op);
/// Whether ranks may share an input as their result: not in open groups, as a rank that has left keeps what it shares.
[[nodiscard]] Sharing sharing_of(const RunningOp& running);
/// Who gets its results: one process that calls a combine, or the ranks of a group.
[[nodiscard]] Takers takers_of(const RunningOp& running);
/// Whether an input was left in place by its owner.
[[nodiscard]] bool reads_in_place(const Op& op);
/// ObjectLost if such an owner has gone by now: what was or will be read there is not to be relied on.
[[nodiscard]] std::optional<muster::Error> lost_input(const RunningOp& running);
/// Makes the op's plan. A plan is the largest thing that an op needs of the heap, so this is an error and no exception
/// if there is no memory for it: then only this op fails.
[[nodiscard]] muster::Result<Plan> plan_of(const RunningOp& running);

using RunningOps = std::unordered_map<std::uint64_t, RunningOp>;  ///< by key
using Objects = muster::ipc::SmallVector<ObjectPtr, 2>;

}  // namespace musterd
