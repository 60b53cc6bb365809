// What a complete muster amounts to on one node: which results to make, by which folds and copies, and who gets
// which objects. Pure: it names places and reads no byte of them.
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

/// Bytes [offset, ...) of an output = left fold of `op` over some of Work::inputs in their order. A scan writes what it
/// has folded so far, too: its last `prefixes` prefixes go to as many outputs from `output` on, all at `offset`.
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

/// What has to be computed. One op of thousands of arrays takes a few allocations, a small one takes none.
struct Work {
  muster::ipc::SmallVector<Place, 8> inputs;  ///< of all folds
  muster::ipc::SmallVector<Fold, 1> folds;
  std::vector<CopyBytes> copies;
};

/// One object that a contributor gets: an input as it is, or an output.
struct Given {
  bool is_output = false;
  std::size_t contributor = 0;  ///< index into Op::contributions, for inputs
  std::size_t index = 0;        ///< of its inputs, or of the outputs
  bool operator==(const Given&) const = default;
};

using Gives = muster::ipc::SmallVector<Given, 1>;

struct Plan {
  muster::ipc::SmallVector<PlannedOutput, 1> outputs;
  Work work;
  muster::ipc::SmallVector<Gives, 8> gives;  ///< for each contribution of the op, what it gets; or one for all
  std::uint64_t work_bytes = 0;              ///< bytes read and written, to choose between inline and lanes
  muster::Device device;                     ///< where all outputs are made, and the work is done

  /// What the plan itself takes, about.
  [[nodiscard]] std::uint64_t own_bytes() const;
  [[nodiscard]] bool gives_all_the_same() const { return gives.size() == 1; }
  [[nodiscard]] const Gives& given_to(std::size_t contributor) const {
    return gives[gives_all_the_same() ? 0 : contributor];
  }
};

/// How a rank gets what another gave and nothing changed.
enum class Sharing : std::uint8_t {
  alias,  ///< as it is: nothing moves
  copy,   ///< as a result: where users share a group, nobody may see into the segments of another's inputs, and
          ///< whatever comes out is of several users' making
};

/// What one op may amount to: planning is the control thread's, whom everybody waits for. At most it takes a few
/// milliseconds and about ten MiB.
struct PlanLimits {
  std::size_t arrays_read = std::size_t{1} << 17;     ///< inputs of all folds, and copies
  std::size_t arrays_made = std::size_t{1} << 16;     ///< leaves of all outputs
  std::size_t manifest_bytes = std::size_t{8} << 20;  ///< of all outputs: their shapes and structures
  std::size_t objects_made = std::size_t{1} << 12;    ///< outputs: each takes memory and an entry in the store
  /// As the plan names them: to each rank, where each gets others. Holds are given in pieces, see Giver::prepare().
  std::size_t objects_given = std::size_t{1} << 15;
};
inline constexpr PlanLimits plan_limits{};

/// What is known of a plan before it is made.
struct PlanExtent {
  std::size_t outputs = 0;  ///< most often: it may have none where inputs are given as they are
  std::uint64_t bytes = 0;  ///< of the heap, at most
};

/// No op has more contributions.
inline constexpr std::size_t contributions_max = 1024;

/// Without building anything. Invalid where it would take more than PlanLimits says.
[[nodiscard]] muster::Result<PlanExtent> measure_plan(const Op& op, Sharing sharing = Sharing::alias);

/// The op's contributions must agree (see agreement.hpp). Invalid where the result can't be, because its shape is too
/// large, and where making it would take more than PlanLimits says, which is known before anything is built. barrier,
/// split and reform give nothing here: their outcome is the caller's business. PeerLost where all get what the root
/// gave and it is not among the contributors; where only the root gets something, then nobody does.
[[nodiscard]] muster::Result<Plan> make_plan(const Op& op, Sharing sharing = Sharing::alias);

}  // namespace musterd
