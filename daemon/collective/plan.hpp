// What a complete muster amounts to on one node: which results to make, by which folds and copies, and who gets
// which objects. Pure: it names places and reads no byte of them. A plan has two stages: the fan-in of this node's
// inputs (`work`), and what is published when that is done (`outputs`, `gives`). Between them an op that runs on
// several nodes will have a third one, the exchange.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/manifest.hpp>
#include <muster/ipc/records.hpp>
#include <muster/ipc/small_vector.hpp>
#include <muster/result.hpp>

#include "collective/contribution.hpp"

namespace musterd {

/// A result to be made: one region of `bytes`; its leaves' offsets are relative to that region (each 64-byte
/// aligned) and their segment is unset.
struct PlannedOutput {
  muster::ipc::Manifest manifest;
  std::uint64_t bytes = 0;
};

/// Bytes [offset, ...) of an output = left fold of `op` over some of Work::inputs in their order. A scan also writes
/// what it has folded so far: its last `prefixes` prefixes go to as many outputs from `output` on, all at `offset`.
struct Fold {
  std::uint32_t output = 0;
  std::uint32_t prefixes = 0;  ///< 0: a plain fold
  std::uint64_t offset = 0;
  std::uint64_t count = 0;  ///< elements
  std::uint32_t first_input = 0;
  std::uint16_t ranks = 0;  ///< inputs
  muster::DType dtype = muster::DType::float32;
  muster::ReduceOp op = muster::ReduceOp::sum;
};

struct CopyBytes {
  std::size_t output = 0;
  std::uint64_t offset = 0;
  Place source;
  std::uint64_t bytes = 0;
};

/// What has to be computed. An op of thousands of arrays takes a few allocations, a small one takes none.
struct Work {
  muster::ipc::SmallVector<Place, 8> inputs;  ///< of all folds
  muster::ipc::SmallVector<Fold, 1> folds;
  std::vector<CopyBytes> copies;
};

/// One object that a contributor gets: an input as it is, or an output.
struct Given {
  bool is_output = false;
  std::size_t contributor = 0;  ///< index into Op::contributions, for inputs
  std::size_t index = 0;        ///< index into its inputs, or into the outputs
  bool operator==(const Given&) const = default;
};

using Gives = muster::ipc::SmallVector<Given, 1>;

struct Plan {
  muster::ipc::SmallVector<PlannedOutput, 1> outputs;
  Work work;
  muster::ipc::SmallVector<Gives, 8> gives;  ///< what each contribution of the op gets; or one entry for all
  std::uint64_t work_bytes = 0;  ///< bytes read and written; they decide whether the job runs at once or on the lanes
  muster::Device device;         ///< where the work is done, and all outputs are made

  /// About how many bytes the plan itself takes.
  [[nodiscard]] std::uint64_t own_bytes() const;
  [[nodiscard]] bool gives_all_the_same() const { return gives.size() == 1; }
  [[nodiscard]] const Gives& given_to(std::size_t contributor) const {
    return gives[gives_all_the_same() ? 0 : contributor];
  }
};

/// How a rank gets an input of another rank unchanged.
enum class Sharing : std::uint8_t {
  alias,  ///< the object itself: nothing is copied
  copy,   ///< as a result: where users share a group, nobody may see into the segments of another's inputs, and
          ///< whatever comes out is of several users' making
};

/// How large one op may be. The control thread makes plans, and everybody waits for it. With these limits a plan takes
/// at most a few milliseconds and about ten MiB.
struct PlanLimits {
  std::size_t arrays_read = std::size_t{1} << 17;     ///< inputs of all folds, and copies
  std::size_t arrays_made = std::size_t{1} << 16;     ///< leaves of all outputs
  std::size_t manifest_bytes = std::size_t{8} << 20;  ///< of all outputs: their shapes and structures
  std::size_t objects_made = std::size_t{1} << 12;    ///< outputs; each takes memory and an entry in the store
  /// Objects that the plan gives: counted for each rank if ranks get different ones. Holds are given in pieces, see
  /// Giver::prepare().
  std::size_t objects_given = std::size_t{1} << 15;
};
inline constexpr PlanLimits plan_limits{};

/// The size of a plan, known before it is made.
struct PlanExtent {
  std::size_t outputs = 0;  ///< usually; there may be none if inputs are given as they are
  std::uint64_t bytes = 0;  ///< of the heap, at most
};

/// The most contributions that an op may have.
inline constexpr std::size_t contributions_max = 1024;

/// Measures a plan without building anything. Invalid if it would exceed PlanLimits.
[[nodiscard]] muster::Result<PlanExtent> measure_plan(const Op& op, Sharing sharing = Sharing::alias);

/// Makes the plan of an op, whose contributions must agree (see agreement.hpp). Invalid if the shape of a result is too
/// large, or if the plan would exceed PlanLimits, which is checked before anything is built. barrier, split and reform
/// give nothing here: the caller decides their outcome. If the root did not contribute, ops in which others get what
/// the root gave fail with PeerLost; in ops in which only the root gets something, nobody gets anything.
[[nodiscard]] muster::Result<Plan> make_plan(const Op& op, Sharing sharing = Sharing::alias);

}  // namespace musterd
