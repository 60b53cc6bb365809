// What a complete muster amounts to on one node: which results to make, by which folds and copies, and who gets
// which objects. Pure: it names places and reads no byte of them. A plan has four stages: the fan-in of the inputs on
// each device (folds and copies); if there are several devices, the exchange between them (reductions and transfers),
// and the folds of what has been transferred; and what is published when that is done (`outputs`, `gives`).
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
  muster::Device device = muster::Device::cpu();  ///< where it is made
  bool is_scratch = false;  ///< a device's part of results, which nobody gets: it ends with the op
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
  std::uint32_t divisor = 0;  ///< of a mean; 0: the number of inputs. Only GPUs know others
};

struct CopyBytes {
  std::size_t output = 0;
  std::uint64_t offset = 0;
  Place source;
  std::uint64_t bytes = 0;
};

/// What one device has in an exchange.
struct ExchangePart {
  Place given;               ///< what it gives; nowhere: what its own folds have left where its result goes
  std::uint32_t output = 0;  ///< where its result goes, and what its folds have left
  std::uint64_t offset = 0;
};

/// A reduction over devices, after the folds of all of them. Each device of the plan has a part in it.
struct Exchange {
  static constexpr std::uint16_t everyone = UINT16_MAX;
  std::uint32_t first_part = 0;   ///< index into Work::parts; the others follow in the order of the plan's devices
  std::uint32_t divisor = 1;      ///< what each element is divided by afterwards
  std::uint64_t count = 0;        ///< elements
  std::uint16_t root = everyone;  ///< index of the only device that gets the result
  muster::DType dtype = muster::DType::float32;  ///< see exchange.hpp
  muster::ReduceOp op = muster::ReduceOp::sum;
};

/// Bytes that an earlier stage has left in an output, or those of an input.
struct Source {
  Place given{};  ///< of an input; nowhere: they lie in `output`
  std::uint32_t output = 0;
  std::uint64_t offset = 0;
};

/// Bytes that one device sends to another, after the folds and copies of both.
struct Transfer {
  Source source{};
  std::uint32_t output = 0;  ///< where they go
  std::uint16_t from = 0;    ///< index of a device of the plan
  std::uint16_t to = 0;      ///< another one
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint32_t group = 0;  ///< those of a group are begun together
};

/// What has to be computed. An op of thousands of arrays takes a few allocations, a small one takes none.
struct Work {
  muster::ipc::SmallVector<Place, 8> inputs;  ///< of all folds
  muster::ipc::SmallVector<Fold, 1> folds;
  std::vector<CopyBytes> copies;
  // Over several devices only.
  std::vector<Exchange> exchanges;
  std::vector<ExchangePart> parts;  ///< of all exchanges
  std::vector<Transfer> transfers;
  std::vector<Fold> last_folds;  ///< after the transfers; their inputs are `last_inputs`, which they may share
  std::vector<Source> last_inputs;
};

/// One object that a contributor gets: an input as it is, or an output.
struct Given {
  bool is_output = false;
  std::size_t contributor = 0;  ///< index into Op::contributions, for inputs
  std::size_t index = 0;        ///< index into its inputs, or into the outputs
  bool operator==(const Given&) const = default;
};

using Gives = muster::ipc::SmallVector<Given, 1>;
/// In rising order. All memory of the host counts as `cpu`.
using Devices = muster::ipc::SmallVector<muster::Device, 1>;

struct Plan {
  muster::ipc::SmallVector<PlannedOutput, 1> outputs;
  Work work;
  muster::ipc::SmallVector<Gives, 8> gives;  ///< what each contribution of the op gets; or one entry for all
  std::uint64_t work_bytes = 0;  ///< bytes read and written; they decide whether the job runs at once or on the lanes
  Devices devices;               ///< where the work is done, and all outputs are made

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

/// Who gets what the ranks of an op would get.
enum class Takers : std::uint8_t {
  ranks,  ///< each its own part, where its arrays lie
  one,    ///< one process gave all inputs, and gets all results where the first of them lies
};

/// How large one op may be. The control thread makes plans, and everybody waits for it. With these limits a plan takes
/// at most a few milliseconds and about ten MiB.
struct PlanLimits {
  std::size_t arrays_read = std::size_t{1} << 17;     ///< inputs of all folds, and what is put into arrays
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
[[nodiscard]] muster::Result<PlanExtent> measure_plan(const Op& op, Sharing sharing = Sharing::alias,
                                                      Takers takers = Takers::ranks);

/// Makes the plan of an op, whose contributions must agree (see agreement.hpp). Invalid if the shape of a result is too
/// large, or if the plan would exceed PlanLimits, which is checked before anything is built. barrier, split and reform
/// give nothing here: the caller decides their outcome. If the root did not contribute, ops in which others get what
/// the root gave fail with PeerLost; in ops in which only the root gets something, nobody gets anything.
[[nodiscard]] muster::Result<Plan> make_plan(const Op& op, Sharing sharing = Sharing::alias,
                                             Takers takers = Takers::ranks);

}  // namespace musterd
