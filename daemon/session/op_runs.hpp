// What becomes of an op whose muster is complete: it is planned, waits for memory, runs on the control thread or on a
// lane, and its results are published and given to all its ranks. Whatever happens, it ends on every seat with one
// outcome.
#pragma once

#include <boost/intrusive/list.hpp>
#include <boost/intrusive/set.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <tuple>
#include <vector>

#include <muster/result.hpp>

#include "base/function_ref.hpp"
#include "base/time.hpp"
#include "collective/lane.hpp"
#include "collective/muster.hpp"
#include "collective/plan.hpp"
#include "memory/admission.hpp"
#include "memory/ledger.hpp"
#include "memory/result_pool.hpp"
#include "session/clients.hpp"
#include "session/giver.hpp"
#include "session/group_state.hpp"
#include "session/history.hpp"
#include "session/long_ops.hpp"
#include "session/memory_pressure.hpp"
#include "session/node_settings.hpp"
#include "session/op_counts.hpp"
#include "session/op_memory.hpp"
#include "session/outside.hpp"
#include "session/retries.hpp"
#include "session/running_op.hpp"
#include "session/slow_folds.hpp"
#include "session/works.hpp"
#include "store/store.hpp"

namespace musterd {

class OpRuns {
 public:
  struct Parts {
    const NodeSettings& settings;
    Ledger& ledger;
    ResultPool& results;
    Store& store;
    Admission& admission;
    Clients& clients;
    Works& works;
    MemoryPressure& pressure;
    History& history;
    Giver& giver;
    Retries& retries;
    Outside& outside;
    OpCounts& counts;
    /// Runs a call from outside as an event of the node.
    std::function<void(FunctionRef)> event;
    const TimePoint& now;  ///< the time of the event that runs
  };
  explicit OpRuns(Parts parts)
      : parts_(std::move(parts)),
        memory_({parts_.ledger, parts_.results, parts_.pressure, parts_.works, parts_.settings.segments_of_turn}),
        long_ops_(parts_.clients, parts_.works) {}

  /// Starts an op. `state` is null for a combine. `user` pays for the results.
  void start(const GroupPtr& state, const OpPtr& op, UserId user) noexcept;
  /// Ends an op that has failed.
  void fail(GroupState* state, const Op& op, const muster::Error& error) noexcept;

  /// Fails ops that are not done in time: some now, and the rest at the next tick.
  void expire(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;

  [[nodiscard]] bool goes_on() const {
    return !being_made_.empty() || parts_.giver.goes_on() || long_ops_.may_have_unwanted();
  }
  void go_on();
  /// Tells all outcomes that are decided.
  void give_all() noexcept;
  /// Fails ops that wait for memory or are with a lane if no client is left to be told: some now, and the others by
  /// go_on().
  void drop_unwanted();

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held

  // op_runs.cpp
  void begin(std::uint64_t key, const GroupPtr& state, const OpPtr& op, UserId user);
  [[nodiscard]] muster::Result<void> plan(RunningOp& running);
  [[nodiscard]] muster::Result<void> check_devices(const RunningOp& running) const;
  [[nodiscard]] muster::Result<void> attempt(std::uint64_t key, Turn turn);
  void put_aside(std::uint64_t key, Admission::WaiterId waiter);
  void drop(const RunningOp& running);
  void make_more();
  void go_on_making(std::uint64_t key);
  void finish(std::uint64_t key);
  [[nodiscard]] muster::Result<Objects> publish(RunningOp& running) const;
  void fail_running(std::uint64_t key, const muster::Error& error) noexcept;
  void give_up_running(std::uint64_t key, const muster::Error& error) noexcept;

  // with_lanes.cpp
  void launch(std::uint64_t key);
  [[nodiscard]] const Process& process_of(const Op& op) const;
  void watch(RunningOp& running);
  void lane_ended(std::uint64_t key, const JobEnd& end);
  void lane_is_quiet(std::uint64_t key);

  Parts parts_;
  OpMemory memory_;
  LongOps long_ops_;
  /// Ops that have all the memory they need, and whose segments are being made.
  boost::intrusive::list<RunningOp, boost::intrusive::base_hook<WaitingHook>,
                         boost::intrusive::constant_time_size<false>>
      being_made_;
  struct Sooner {
    bool operator()(const RunningOp& a, const RunningOp& b) const {
      return std::tie(a.deadline, a.key) < std::tie(b.deadline, b.key);
    }
  };
  /// Ops whose segments are being made, and ops with a lane, except failed ones.
  boost::intrusive::set<RunningOp, boost::intrusive::base_hook<DueHook>, boost::intrusive::compare<Sooner>,
                        boost::intrusive::constant_time_size<false>>
      due_;
  RunningOps running_;
  SlowFolds slow_folds_;
  std::uint64_t last_key_ = 0;
};

}  // namespace musterd
