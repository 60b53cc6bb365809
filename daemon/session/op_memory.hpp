// How an op gets the memory for its plan and its results: all of it or none. It may wait for it, so what a waiting op
// keeps is as small as it can be, and charged.
#pragma once

#include <cstddef>
#include <cstdint>

#include <muster/result.hpp>

#include "memory/ledger.hpp"
#include "memory/result_pool.hpp"
#include "session/memory_pressure.hpp"
#include "session/running_op.hpp"
#include "session/works.hpp"

namespace musterd {

/// What the plan's outputs take of the memory of each device.
[[nodiscard]] Amounts bytes_needed(const Plan& plan);

class OpMemory {
 public:
  struct Parts {
    Ledger& ledger;
    ResultPool& results;
    MemoryPressure& pressure;
    const Works& works;
    const std::size_t& segments_of_turn;  ///< how many segments are made before others have their turns
  };
  explicit OpMemory(Parts parts) : parts_(parts) {}

  static constexpr std::uint64_t plan_bytes_free = 4096;  ///< the charge of an op covers a plan of this size

  /// OutOfMemory or QuotaExceeded if there is no room for the plan now. Gives free results back if that helps.
  [[nodiscard]] muster::Result<void> has_room_for_plan(const RunningOp& running);
  /// Takes memory for a large plan and all results of a planned op, and makes the first segments. OutOfMemory or
  /// QuotaExceeded if there is no room now; then it has taken nothing.
  [[nodiscard]] muster::Result<void> take(RunningOp& running, Turn turn);
  /// Makes some more of the op's new segments. False if more are left.
  [[nodiscard]] muster::Result<bool> make_some(RunningOp& running);
  /// Charges for an op that outlives the event that started it, with so many bytes beside it. QuotaExceeded.
  [[nodiscard]] muster::Result<void> charge(RunningOp& running, std::uint64_t beside);
  /// Drops what a waiting op can make again of a large plan, and charges for the rest. QuotaExceeded.
  [[nodiscard]] muster::Result<void> keep_sizes(RunningOp& waiting);

 private:
  [[nodiscard]] muster::Result<void> could_have_room(RunningOp& running) const;
  [[nodiscard]] muster::Result<void> book(RunningOp& running, Turn turn);
  [[nodiscard]] muster::Result<ResultRegion> result_region(RunningOp& running, const PlannedOutput& output, Turn turn);
  [[nodiscard]] bool all_seated(const GroupState& state, const Op& op) const;
  static void drop_regions(RunningOp& running);

  Parts parts_;
};

}  // namespace musterd
