// The gathering of contributions: all pending ops of one epoch of one group. An op starts when every live seat has
// contributed and all agree. It ends with one outcome that every seat gets, late ones, too. Pure: contributions, losses
// and time go in, actions come out. A call that finds no memory throws, and then that one thing has not happened. What
// was decided before it is among the actions.
#pragma once

#include <boost/intrusive/list.hpp>
#include <boost/intrusive/set.hpp>
#include <compare>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include <muster/ipc/records.hpp>
#include <muster/result.hpp>

#include "base/time.hpp"
#include "collective/contribution.hpp"
#include "collective/messages.hpp"

namespace musterd {

/// The muster is complete: plan it, run it, then call finished().
struct StartOp {
  OpPtr op;
};
/// The op ended with this error: tell all these seats.
struct FailOp {
  OpId op = 0;
  muster::Error error;
  std::vector<Ticket> tickets;
  std::size_t effort = 0;  ///< how much work it was to let its contributions go
};
using Action = std::variant<StartOp, FailOp>;

/// How much work an action is, where 1 is a look at one op. A failure sends messages, and a start runs an op.
[[nodiscard]] std::size_t effort_of(const Action& action);

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

  static constexpr int everyone = -1;
  /// Names an op that gathers.
  struct Handle {
    int peer = everyone;  ///< the only rank that it waits for, if it is a send or a receive
    OpId op = 0;          ///< 0: none
    auto operator<=>(const Handle&) const = default;
  };

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
  void prepare_loss(int rank, const Loss& loss);
  /// Whether there are ops that have not learned of a loss.
  [[nodiscard]] bool is_behind() const { return reforms_wait_ || any_is_behind(); }
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
  /// Takes out the first op of this key that gathers, unless it is a split, and returns what has come to it. It is no
  /// op any more, and the caller settles the works. A later op, of ranks that called twice, goes on.
  [[nodiscard]] std::vector<Contribution> take_retries(const std::string& key);
  /// Every pending op fails with this error (stop, group gone).
  void abort(const muster::Error& error, std::vector<Action>& actions);
  /// The epoch is over, and no rank comes any more. Ops that only waited for lost ranks start, the others fail with
  /// this error, and all are forgotten. A call handles as many as `left` allows; call it until empty().
  void dissolve(const muster::Error& error, std::vector<Action>& actions, std::size_t& left);
  [[nodiscard]] bool empty() const { return ordered_.empty() && matches_.empty() && dropped_.empty(); }

  /// When to call expire() next: the earliest deadline of an op that gathers.
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;
  /// Ranks that the op still waits for; nothing if it is over.
  [[nodiscard]] std::vector<int> missing(Handle handle) const;
  /// Sequence number of the rank's next op matched by order.
  [[nodiscard]] std::uint64_t position(int rank) const;
  struct Owed {
    std::uint64_t sequence = 0;
    std::string key;
    muster::ipc::Kind kind = muster::ipc::Kind::barrier;
  };
  /// The ops that wait for this rank. This takes time for each of them, and for each op that gathers and has the rank's
  /// contribution already.
  [[nodiscard]] std::vector<Owed> owed(int rank) const;
  /// About how many bytes it takes to name these ops.
  [[nodiscard]] std::size_t owed_bytes(int rank) const;
  /// Ops that gather or run.
  [[nodiscard]] std::size_t in_flight() const { return gathering_ + running_; }
  /// Members that are lost or vacant.
  [[nodiscard]] std::set<int> lost() const;
  /// True if the contribution would be the first of its op. If the op then failed, this contribution would pay for
  /// remembering it.
  [[nodiscard]] bool begins_op(const Contribution& contribution) const;

  static constexpr std::size_t seat_bytes = 24;  ///< what each seat of the group takes

  /// About what a contribution takes while its op is pending, beside its key, be it the first or a later one. If the op
  /// fails, this is enough for remembering that.
  [[nodiscard]] static constexpr std::size_t pending_bytes();

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  enum class Standing : std::uint8_t {
    absent,  ///< not a member of this epoch
    live,
    vacant,  ///< gone, and a replacement is awaited
    gone,    ///< lost for the rest of the epoch
  };
  struct RankState {
    Standing standing = Standing::absent;
    std::uint32_t in_flight = 0;  ///< contributions to ops that gather
    std::uint64_t position = 0;   ///< sequence number of its next op matched by order
    /// What it takes to name the sends and receives that wait for the rank, less what it takes to name the other ops
    /// that it has come to. So this may wrap around; the sum with nameable_bytes_ does not.
    std::uint64_t owed_bytes = 0;
  };

  /// What brings contributions together that aren't matched by order. Ops of the same match follow each other.
  struct Match {
    enum class Of : std::uint8_t { key, pair, reform };
    Of of = Of::key;
    std::string key;
    int source = 0;        ///< of a pair
    int destination = 0;   ///< of a pair
    std::int64_t tag = 0;  ///< of a pair
    friend bool operator<(const Match& a, const Match& b) {
      return std::tie(a.of, a.key, a.source, a.destination, a.tag) <
             std::tie(b.of, b.key, b.source, b.destination, b.tag);
    }
  };

  /// Links slots in a list by what they know of losses.
  using Knowledge = boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
  template <class Tag>
  using InSet = boost::intrusive::set_base_hook<boost::intrusive::tag<Tag>, boost::intrusive::optimize_size<true>,
                                                boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
  /// Link the slots that gather, in order of their deadlines and of their handles. That allocates nothing, so it can't
  /// fail.
  using Due = InSet<struct DueTag>;
  using Handled = InSet<struct HandledTag>;

  struct Failure {
    muster::Error error;
    std::vector<bool> named;  ///< the ranks that the error names, if they are many; the error itself has none then
  };

  /// Failed ops in a row, matched by order, whose code is all that is kept of them. Ranks may still come to them.
  struct Dropped {
    muster::Code code{};
    Charge charge;  ///< the charge of one of them
  };

  /// An op from its first contribution until every rank that may come has come.
  struct Slot : Knowledge, Due, Handled {
    OpId id = 0;
    int peer = everyone;               ///< see Handle
    std::uint64_t sequence = 0;        ///< if matched by order
    const Match* match = nullptr;      ///< null: matched by order
    std::vector<bool> arrived;         ///< with a match: by rank; for a pair, the sender and the receiver
    std::size_t awaited = 0;           ///< contributions that may still come, given the losses that it knows
    std::size_t losses_known = 0;      ///< how many entries of gone_ it knows
    std::shared_ptr<Op> op;            ///< null once the muster is over
    std::unique_ptr<Failure> failure;  ///< the outcome, if it failed and is remembered
    muster::Code forgotten{};          ///< the code of an outcome that is not remembered
    std::size_t remembered_bytes = 0;  ///< about what remembering the failure takes
    Charge charge;                     ///< for remembering the failure
    TimePoint since;
    TimePoint deadline;
    [[nodiscard]] Handle handle() const { return {peer, id}; }
    [[nodiscard]] bool gathering() const { return op != nullptr; }
    /// True if the op had to end, and there was no memory for that.
    [[nodiscard]] bool must_fail() const { return deadline == TimePoint{}; }
    [[nodiscard]] bool is(Match::Of of) const { return match && match->of == of; }
  };
  struct Sooner {
    bool operator()(const Slot& a, const Slot& b) const {
      return std::tie(a.deadline, a.id) < std::tie(b.deadline, b.id);
    }
  };
  struct HandleOf {
    using type = Handle;
    Handle operator()(const Slot& slot) const { return slot.handle(); }
  };

  // muster.cpp: from contribution to outcome
  [[nodiscard]] static Match match_of(const Contribution& contribution);
  /// The end of a send and its recv that has come.
  [[nodiscard]] static PairCall pair_call(const Slot& slot);
  /// The index in Slot::arrived.
  [[nodiscard]] static std::size_t place_in(const Match& match, const Contribution& contribution);
  [[nodiscard]] Slot* find_or_open(const Contribution& contribution, TimePoint now, std::vector<Action>& actions);
  [[nodiscard]] Slot& find_or_open_matched(const Contribution& contribution, TimePoint now);
  void open(Slot& slot, const Contribution& contribution, TimePoint now);
  void abandon(Slot& slot);
  void make_room(std::vector<Action>& actions);
  void give_up_oldest(std::vector<Action>& actions);
  void drop_oldest();
  void keep_code(Slot& slot);
  [[nodiscard]] muster::Code code_of_dropped(std::uint64_t sequence) const;
  void forget_dropped();
  [[nodiscard]] std::uint64_t slowest_position() const;
  void begin_gathering(Slot& slot);
  void prepare(Slot& slot, const Contribution& contribution, std::optional<muster::Error>& error);
  void arrive(Slot& slot, const Contribution& contribution);
  void hasten(Slot& slot, TimePoint deadline);
  [[nodiscard]] std::optional<muster::Error> objection(const Slot& slot, const Contribution& contribution) const;
  void start(Slot& slot, std::vector<Action>& actions);
  void fail(Slot& slot, const muster::Error& error, std::vector<Action>& actions);
  void end_gathering(Slot& slot);
  void retire(const Slot& slot);
  void retire_ordered();
  void forget_old_failures();
  void forget_oldest_failure();
  void forget_failure(const Slot& slot);
  [[nodiscard]] Failure with_few_ranks(const muster::Error& error) const;
  [[nodiscard]] static muster::Error outcome(const Failure& failure);
  [[nodiscard]] std::size_t bytes_beside_error(const Slot& slot) const;

  // losses.cpp: which ranks may still come, and what a loss means for pending ops
  [[nodiscard]] bool may_come(const Slot& slot, int rank) const;
  [[nodiscard]] std::size_t owes(const Slot& slot, int rank) const;
  [[nodiscard]] std::size_t count_awaited(const Slot& slot) const;
  [[nodiscard]] std::vector<int> missing(const Slot& slot) const;
  [[nodiscard]] std::optional<muster::Error> refusal(const Slot& slot, const Contribution& contribution) const;
  [[nodiscard]] static bool needs_in_person(const Slot& slot, int rank);
  void withdraw(int rank, const Loss& loss, Standing standing, std::vector<Action>& actions, std::size_t& left);
  [[nodiscard]] bool is_behind(const Slot& slot) const { return slot.losses_known < gone_.size(); }
  [[nodiscard]] bool any_is_behind() const { return !by_knowledge_.empty() && is_behind(by_knowledge_.front()); }
  void catch_up(Slot& slot, std::vector<Action>& actions);
  void catch_up_reforms(int rank, std::vector<Action>& actions, std::size_t& left);
  void begin_first_reform(std::vector<Action>& actions, std::size_t& left);
  void start_if_complete(Slot& slot, std::vector<Action>& actions);
  void go_on_without(Slot& slot, int rank, std::vector<Action>& actions);
  void dissolve(Slot& slot, const muster::Error& error, std::vector<Action>& actions);
  [[nodiscard]] muster::Error late(const Slot& slot, TimePoint now, const Locate& locate) const;
  [[nodiscard]] bool has_come(const Slot& slot, int rank) const;
  [[nodiscard]] std::string where_it_waits(int rank) const;

  [[nodiscard]] static std::size_t name_bytes(const Slot& slot);
  [[nodiscard]] bool is_rank(int rank) const { return rank >= 0 && rank < world_size_; }
  [[nodiscard]] RankState& rank_state(int rank);
  [[nodiscard]] const RankState& rank_state(int rank) const;
  [[nodiscard]] Standing standing(int rank) const;

  int world_size_;
  Limits limits_;
  OpId next_id_;
  std::vector<RankState> ranks_;  ///< by rank
  std::size_t expected_ = 0;      ///< members that may contribute to a new op: live or vacant
  Losses losses_;                 ///< why the lost and vacant ranks are gone
  std::vector<int> gone_;         ///< the ranks that don't come back, in the order of their losses
  bool refusing_ = false;         ///< new ops fail: a rank was lost under policy fail
  bool reforms_wait_ = false;     ///< some reforms may be complete and have not begun

  std::deque<Slot> ordered_;  ///< by sequence number; the first one's is base_
  std::uint64_t base_ = 0;
  std::map<std::uint64_t, Dropped> dropped_;  ///< by the first sequence number of a row; all are before base_
  std::map<Match, std::list<Slot>> matches_;
  /// The slots that know least come first, so that nothing has to search for them.
  boost::intrusive::list<Slot, boost::intrusive::base_hook<Knowledge>, boost::intrusive::constant_time_size<false>>
      by_knowledge_;
  boost::intrusive::set<Slot, boost::intrusive::base_hook<Due>, boost::intrusive::compare<Sooner>,
                        boost::intrusive::constant_time_size<false>>
      by_deadline_;
  boost::intrusive::set<Slot, boost::intrusive::base_hook<Handled>, boost::intrusive::key_of_value<HandleOf>,
                        boost::intrusive::constant_time_size<false>>
      by_handle_;
  std::uint64_t nameable_bytes_ = 0;  ///< what it takes to name all ops that gather, except sends and receives
  std::map<OpId, Slot*> failures_;    ///< the remembered failures, the oldest first
  std::size_t failures_bytes_ = 0;
  std::size_t gathering_ = 0;
  std::size_t running_ = 0;

  static constexpr std::size_t contributions_at_once =
      4;  ///< how many an op has room for from its first contribution on
};

constexpr std::size_t Muster::pending_bytes() {
  static_assert(sizeof(RankState) == seat_bytes);
  constexpr std::size_t nodes_bytes = 256;  // of maps and lists, the op's name, what malloc adds
  return contributions_at_once * sizeof(Contribution) + sizeof(Op) + sizeof(Slot) + sizeof(Match) + nodes_bytes;
}

}  // namespace musterd
