// One rank's input to one collective, and the op that the inputs of all ranks make.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <muster/ipc/records.hpp>
#include <muster/ipc/small_vector.hpp>
#include <muster/result.hpp>

#include "base/time.hpp"
#include "collective/input.hpp"
#include "memory/ledger.hpp"

namespace musterd {

using Inputs = muster::ipc::SmallVector<Input, 1>;

/// Says where an outcome has to go. The caller chooses it.
using Ticket = std::uint64_t;
/// High 32 bits: the epoch; low 32 bits: the number of the op in it. 0 is no op.
using OpId = std::uint64_t;
[[nodiscard]] constexpr OpId first_op_of(std::uint32_t epoch) { return (OpId{epoch} << 32) + 1; }
[[nodiscard]] constexpr std::uint32_t epoch_of(OpId op) { return static_cast<std::uint32_t>(op >> 32); }
/// The next id of the same epoch. After about four billion ops the numbers come around.
[[nodiscard]] constexpr OpId next_op(OpId op) {
  const auto number = static_cast<std::uint32_t>(op) + 1;
  return (op >> 32 << 32) | (number == 0 ? 1 : number);
}

struct Contribution {
  int rank = 0;
  muster::ipc::Kind kind = muster::ipc::Kind::barrier;
  muster::ReduceOp op = muster::ReduceOp::sum;
  muster::ipc::Layout layout = muster::ipc::Layout::parts;
  int root = 0;          ///< root; peer for send and recv; color for split
  std::int64_t tag = 0;  ///< tag of send and recv; key for split
  TimePoint deadline;
  std::string key;  ///< empty: matched by order
  Inputs inputs;
  std::shared_ptr<const muster::Error> fault;  ///< why the rank has no input; the op then fails on every seat
  Ticket ticket = 0;
  /// The charge for the contribution's part in the op. If the op fails, it pays for remembering that.
  Charge charge;
};

/// A complete muster: the contributions, in rank order. A rank that sends to itself is in it twice: its send, then its
/// recv.
struct Op {
  OpId id = 0;
  std::string name;  ///< "allreduce #17", "allreduce 'key'" or "send 0->1 tag 5", for messages and logs
  std::string key;   ///< of one that is matched by key
  int world_size = 0;
  std::vector<Contribution> contributions;
};
using OpPtr = std::shared_ptr<const Op>;

}  // namespace musterd
