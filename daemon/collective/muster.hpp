// The gathering of contributions: all pending ops of one epoch of one group. An op starts when every live seat has
// contributed and all agree. It ends with one outcome that every seat gets, late ones, too. Pure: contributions, losses
// and time go in, actions come out. A call that finds no memory throws, and then that one thing has not happened. What
// was decided before it is among the actions.
//
// It has more than 25 functions, as it is the one face that its parts have for a session: half of them are questions,
// which the parts answer. muster.cpp is about contributions, losses.cpp about losses, expiry.cpp about deadlines and
// epochs that end.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <muster/result.hpp>

#include "base/time.hpp"
#include "collective/actions.hpp"
#include "collective/contribution.hpp"
#include "collective/failed_codes.hpp"
#include "collective/members.hpp"
#include "collective/messages.hpp"
#include "collective/pending_ops.hpp"

namespace musterd {

class Muster {
 public:
  struct Limits {
    std::size_t in_flight_max = 4096;  ///< ops that one seat may have pending; one more is QuotaExceeded
    std::size_t history_max = 4096;    ///< failed outcomes kept for late seats
    std::size_t history_bytes_max = std::size_t{1} << 20;  ///< about how many bytes these may take
  };
  /// `members` are the ranks that take part in this epoch. Others are absent, and no op waits for them. `epoch` goes
  /// into the high half of op ids, so that they differ from those of the group's other epochs.
  Muster(int world_size, std::span<const int> members, Limits limits, std::uint32_t epoch = 0);

  static constexpr int everyone = PendingOp::everyone;
  using Handle = PendingOp::Handle;

  /// Takes one rank's input, and appends what has to be done. A contribution to an op that has already failed gets the
  /// same outcome at once (a FailOp with this one ticket). Returns the op if it goes on gathering. An op that can
  /// neither begin nor fail, as the heap is full, fails at the next expire().
  Handle contribute(Contribution&& contribution, TimePoint now, std::vector<Action>& actions);
  /// Whether the op began in this epoch.
  [[nodiscard]] bool is_own(OpId op) const;
  /// Notes that a started op is over, done or failed.
  void finished(OpId op);
  /// The rank is lost (policy fail). Every op that waits for it fails with PeerLost, and so does every op that begins
  /// later. `lost` accumulates. As many ops as `left` allows learn of a loss at once, and so does the first reform. The
  /// others learn of it with catch_up(), or when a rank comes to them. `left` goes down by one for each op, and by what
  /// its end costs.
  void lose(int rank, const Loss& loss, std::vector<Action>& actions, std::size_t& left);
  /// The rank is lost, and no op waits for it any more (policy shrink). Ops that only waited for it start. Ops that
  /// need it in person (root, peer) fail with PeerLost.
  void shrink(int rank, const Loss& loss, std::vector<Action>& actions, std::size_t& left);
  /// The rank is vacant (policy wait). Ops wait for a replacement, and fail with PeerLost at their deadline. A reform
  /// goes on without the rank.
  void vacate(int rank, const Loss& loss, std::vector<Action>& actions, std::size_t& left);
  /// Takes the memory that the loss needs. After that the loss can't fail. Ops that find no memory learn of it later.
  void prepare_loss(int rank, const Loss& loss) { members_.prepare_loss(rank, loss); }
  /// Whether there are ops that have not learned of a loss.
  [[nodiscard]] bool is_behind() const { return reforms_wait_ || ops_.is_behind(); }
  void catch_up(std::vector<Action>& actions, std::size_t& left);
  /// A replacement took the seat, and goes on where the seat stands.
  void reoccupy(int rank);
  /// Says who has a rank's seat, and whether that process is stopped. It is for messages, so it is called for few
  /// ranks. May be empty.
  using Locate = std::function<Whereabouts(int rank)>;
  /// Fails ops whose deadline has passed: with Timeout, which names the missing ranks, or with PeerLost if a vacant
  /// seat is missing. It ends as many as `left` allows; next_deadline() is then that of the next one. An op that has
  /// not learned of a loss learns of it first, and fails with that if the loss ends it.
  void expire(TimePoint now, std::vector<Action>& actions, std::size_t& left, const Locate& locate);
  /// See PendingOps. The caller settles the works.
  [[nodiscard]] std::vector<Contribution> take_retries(const std::string& key) { return ops_.take_retries(key); }
  /// Every pending op fails with this error (stop, group gone).
  void abort(const muster::Error& error, std::vector<Action>& actions);
  /// The epoch is over, and no rank comes any more. Ops that only waited for lost ranks start, the others fail with
  /// this error, and all are forgotten. A call handles as many as `left` allows; call it until empty().
  void dissolve(const muster::Error& error, std::vector<Action>& actions, std::size_t& left);
  [[nodiscard]] bool empty() const { return ops_.empty() && codes_.empty(); }

  /// When to call expire() next: the earliest deadline of an op that gathers.
  [[nodiscard]] std::optional<TimePoint> next_deadline() const { return ops_.gathering().next_deadline(); }
  /// Ranks that the op still waits for; nothing if it is over.
  [[nodiscard]] std::vector<int> missing(Handle handle) const;
  /// Sequence number of the rank's next op matched by order.
  [[nodiscard]] std::uint64_t position(int rank) const { return ops_.ordered().position(rank); }
  using Owed = GatheringOps::Owed;
  /// The ops that wait for this rank. This takes time for each of them, and for each op that gathers and has the rank's
  /// contribution already.
  [[nodiscard]] std::vector<Owed> owed(int rank) const { return ops_.gathering().owed(rank, position(rank)); }
  /// About how many bytes it takes to name these ops.
  [[nodiscard]] std::size_t owed_bytes(int rank) const { return ops_.gathering().owed_bytes(rank); }
  /// Ops that gather or run.
  [[nodiscard]] std::size_t in_flight() const { return ops_.gathering().size() + running_; }
  /// Members that are lost or vacant.
  [[nodiscard]] std::set<int> lost() const { return members_.lost(); }
  /// True if the contribution would be the first of its op. If the op then failed, this contribution would pay for
  /// remembering it.
  [[nodiscard]] bool begins_op(const Contribution& contribution) const { return ops_.begins_op(contribution); }

  static constexpr std::size_t seat_bytes = 24;  ///< about what each seat of the group takes

  /// About what a contribution takes while its op is pending, beside its key, be it the first or a later one. If the op
  /// fails, this is enough for remembering that.
  [[nodiscard]] static constexpr std::size_t pending_bytes();

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held

  // muster.cpp
  void give_up_oldest(std::vector<Action>& actions);
  void answer_late(PendingOp* op, const Contribution& contribution, std::vector<Action>& actions);
  [[nodiscard]] std::optional<muster::Error> prepare(PendingOp& op, const Contribution& contribution);
  [[nodiscard]] std::optional<muster::Error> objection(const PendingOp& op, const Contribution& contribution) const;
  void start(PendingOp& op, std::vector<Action>& actions);
  void forget_old_codes();

  // losses.cpp
  void withdraw(int rank, const Loss& loss, Members::Standing after, std::vector<Action>& actions, std::size_t& left);
  void catch_up(PendingOp& op, std::vector<Action>& actions);
  void catch_up_reforms(std::vector<Action>& actions, std::size_t& left);
  void begin_first_reform(std::vector<Action>& actions, std::size_t& left);
  void start_if_complete(PendingOp& op, std::vector<Action>& actions);
  void go_on_without(PendingOp& op, int rank, std::vector<Action>& actions);

  Limits limits_;
  std::uint32_t epoch_;
  Members members_;
  PendingOps ops_;
  FailedCodes codes_;
  std::size_t running_ = 0;
  bool reforms_wait_ = false;  ///< some reforms may be complete and have not begun
};

constexpr std::size_t Muster::pending_bytes() {
  constexpr std::size_t nodes_bytes = 256;  // of maps and lists, the op's name, what malloc adds
  return PendingOps::contributions_at_once * sizeof(Contribution) + sizeof(Op) + sizeof(PendingOp) + sizeof(Match) +
         nodes_bytes;
}

}  // namespace musterd
