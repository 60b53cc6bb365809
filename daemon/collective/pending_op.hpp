// One op from its first contribution until every rank that may come has come. So it outlives its outcome: a rank that
// comes late to an op that failed gets the same error.
#pragma once

#include <boost/intrusive/list.hpp>
#include <boost/intrusive/set.hpp>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <muster/result.hpp>

#include "base/time.hpp"
#include "collective/contribution.hpp"
#include "collective/failure.hpp"
#include "collective/match.hpp"
#include "collective/messages.hpp"
#include "memory/ledger.hpp"

namespace musterd {

template <class Tag>
using InSetOfOps = boost::intrusive::set_base_hook<boost::intrusive::tag<Tag>, boost::intrusive::optimize_size<true>,
                                                   boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
/// These hooks link an op that gathers in the order of deadlines and of handles, and every op by the losses that it
/// knows. That allocates nothing, so it can't fail.
using OpByDeadline = InSetOfOps<struct OfOpDeadline>;
using OpByHandle = InSetOfOps<struct OfOpHandle>;
using OpByLosses = boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

struct PendingOp : OpByLosses, OpByDeadline, OpByHandle {
  static constexpr int everyone = -1;
  /// Names an op that gathers.
  struct Handle {
    int peer = everyone;  ///< the only rank that it waits for, if it is a send or a receive
    OpId op = 0;          ///< 0: none
    auto operator<=>(const Handle&) const = default;
  };

  OpId id = 0;                       ///< 0 until it is open
  int peer = everyone;               ///< see Handle
  std::uint64_t sequence = 0;        ///< if matched by order
  const Match* match = nullptr;      ///< null: matched by order
  std::vector<bool> arrived;         ///< with a match: see Match::index_of()
  std::size_t awaited = 0;           ///< contributions that may still come, given the losses that it knows
  std::size_t losses_known = 0;      ///< how many entries of Members::gone() it knows
  std::shared_ptr<Op> op;            ///< null once the muster is over
  std::unique_ptr<Failure> failure;  ///< the outcome, if it failed and is remembered
  muster::Code forgotten{};          ///< the code of an outcome that is not remembered
  std::size_t remembered_bytes = 0;  ///< about what remembering the failure takes
  Charge charge;                     ///< for remembering the failure
  TimePoint since;
  TimePoint deadline;

  [[nodiscard]] Handle handle() const { return {peer, id}; }
  [[nodiscard]] bool is(Match::Of of) const { return match && match->of == of; }
  [[nodiscard]] bool is_open() const { return id != 0; }
  [[nodiscard]] bool gathering() const { return op != nullptr; }
  /// True if the op had to end, and there was no memory for that.
  [[nodiscard]] bool must_fail() const { return deadline == TimePoint{}; }
  /// True if it is over, and nobody comes to it any more.
  [[nodiscard]] bool is_done_with() const { return !gathering() && awaited == 0; }
  /// Of an op that failed.
  [[nodiscard]] muster::Code code() const { return failure ? failure->code() : forgotten; }

  /// How many contributions the rank still owes: 2 if it is both sender and receiver. `position` is the sequence number
  /// of its next call that is matched by order.
  [[nodiscard]] std::size_t owes(int rank, std::uint64_t position) const;
  /// Whether the rank has given a contribution. `position` as above.
  [[nodiscard]] bool has_come(int rank, std::uint64_t position) const;
  /// Notes that a contribution has come, or a call to an op that is over.
  void arrive(const Contribution& contribution);

  // of an op that gathers
  /// True if it can't go on without this rank: its root, sender or receiver.
  [[nodiscard]] bool needs_in_person(int rank) const;
  /// The end of a send and its recv that has come.
  [[nodiscard]] PairCall pair_call() const;
  /// About how many bytes it takes to name the op.
  [[nodiscard]] std::size_t name_bytes() const {
    constexpr std::size_t each = 48;  // beside its key
    return each + (match ? match->key.size() : 0);
  }
};

}  // namespace musterd
