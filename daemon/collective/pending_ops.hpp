// All pending ops of an epoch: how they open, take contributions, start, fail, and are forgotten. Whether a
// contribution is good, and what a loss or a deadline means, is up to Muster.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <string>
#include <vector>

#include <muster/result.hpp>

#include "base/time.hpp"
#include "collective/actions.hpp"
#include "collective/failed_ops.hpp"
#include "collective/gathering_ops.hpp"
#include "collective/matched_ops.hpp"
#include "collective/members.hpp"
#include "collective/ordered_ops.hpp"
#include "collective/pending_op.hpp"

namespace musterd {

class PendingOps {
 public:
  /// `members` must outlive this. `first` is the id of the first op. As many failures are remembered as
  /// `failures_max` says, in about `failures_bytes_max` bytes.
  PendingOps(const Members& members, OpId first, std::size_t failures_max, std::size_t failures_bytes_max);
  PendingOps(const PendingOps&) = delete;
  PendingOps& operator=(const PendingOps&) = delete;

  /// True if the contribution would be the first of its op.
  [[nodiscard]] bool begins_op(const Contribution& contribution) const;
  /// The op that the contribution meets. If it is new, it begins to gather. Null if it has been dropped.
  [[nodiscard]] PendingOp* find_or_open(const Contribution& contribution, TimePoint now);
  /// Ends an op that was opened for a contribution that does not come.
  void abandon(PendingOp& op);
  /// Adds a contribution to an op that gathers and has room for it.
  void take(PendingOp& op, Contribution&& contribution);
  /// Notes that a rank has come: to a dropped op, if it is null.
  void arrive(PendingOp* op, const Contribution& contribution);

  /// Starts an op. If this throws, nothing has happened.
  void start(PendingOp& op, std::vector<Action>& actions);
  /// Fails an op. The outcome is remembered for late ranks, and one of the contributors pays for that. If this throws,
  /// nothing has happened.
  void fail(PendingOp& op, const muster::Error& error, std::vector<Action>& actions);
  /// Forgets the op if it is over and nobody may come to it any more.
  void retire(const PendingOp& op);
  /// The same for all ops that are matched by order.
  void retire_ordered();
  /// Forgets the errors that are more than may be remembered.
  void forget_old_failures();
  /// Takes out the first op of this key that gathers, unless it is a split, and returns what has come to it: it is no
  /// op any more. Ranks that called twice have a later op of the key.
  [[nodiscard]] std::vector<Contribution> take_retries(const std::string& key);

  [[nodiscard]] bool empty() const { return ordered_.empty() && matched_.empty(); }
  /// The oldest op that is matched by order. If there is none, an op that isn't. There must be one.
  [[nodiscard]] PendingOp& oldest() { return ordered_.empty() ? matched_.first() : ordered_.oldest(); }
  /// Drops this op, and what is remembered of it.
  void drop_oldest();

  /// Null if there are none.
  [[nodiscard]] MatchedOps::Ops* reforms() { return matched_.find(match_of_reforms()); }
  /// Forgets reforms that are over and that nobody may come to any more.
  void retire_reforms();

  /// An op that has not learned of a loss; null if there is none. An op has learned of as many losses as its
  /// `losses_known` says.
  [[nodiscard]] PendingOp* behind() { return is_behind() ? &by_losses_.front() : nullptr; }
  [[nodiscard]] bool is_behind() const {
    return !by_losses_.empty() && by_losses_.front().losses_known < members_.gone().size();
  }
  /// The op has learned of all losses.
  void learned(PendingOp& op) { by_losses_.splice(by_losses_.end(), by_losses_, by_losses_.iterator_to(op)); }

  /// Ranks that the op still waits for.
  [[nodiscard]] std::vector<int> missing(const PendingOp& op) const;
  [[nodiscard]] const OrderedOps& ordered() const { return ordered_; }
  [[nodiscard]] GatheringOps& gathering() { return gathering_; }
  [[nodiscard]] const GatheringOps& gathering() const { return gathering_; }

  static constexpr std::size_t contributions_at_once =
      4;  ///< how many an op has room for from its first contribution on

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  void open(PendingOp& op, const Contribution& contribution, TimePoint now);

  const Members& members_;
  OpId next_id_;
  OrderedOps ordered_;
  MatchedOps matched_;
  FailedOps failed_;
  GatheringOps gathering_;
  /// All ops. Those that know least of losses come first, so that nothing has to search for them.
  boost::intrusive::list<PendingOp, boost::intrusive::base_hook<OpByLosses>,
                         boost::intrusive::constant_time_size<false>>
      by_losses_;
};

}  // namespace musterd
