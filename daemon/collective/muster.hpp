// The gathering of contributions: all pending ops of one epoch of one group. An op starts when every live seat
// has contributed and all agree, and ends with one outcome that every seat gets, late ones too.
// Pure: contributions, losses and time in; actions out.
// What finds no memory throws, and then that one thing has not happened; what was decided before is among the actions.
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
/// The op ended with this error; tell all these seats.
struct FailOp {
  OpId op = 0;
  muster::Error error;
  std::vector<Ticket> tickets;
  std::size_t effort = 0;  ///< that it took to let its contributions go
};
using Action = std::variant<StartOp, FailOp>;

/// What it takes to do it, compared with looking at one op: so many words go out, or an op runs.
[[nodiscard]] std::size_t effort_of(const Action& action);

class Muster {
 public:
  struct Limits {
    std::size_t in_flight_max = 4096;                      ///< ops that one seat may have pending; more: QuotaExceeded
    std::size_t history_max = 4096;                        ///< failed outcomes kept for late seats
    std::size_t history_bytes_max = std::size_t{1} << 20;  ///< what these take, about
  };
  /// `members`: the ranks that take part in this epoch; others are absent and not waited for.
  /// `epoch` goes into the high half of op ids, so that they differ from those of the group's other epochs.
  Muster(int world_size, std::span<const int> members, Limits limits, std::uint32_t epoch = 0);

  static constexpr int everyone = -1;
  /// Names an op that gathers.
  struct Handle {
    int peer = everyone;  ///< whom alone it waits for, if it is a send or a receive
    OpId op = 0;          ///< 0: none
    auto operator<=>(const Handle&) const = default;
  };

  /// One rank's input. Appends what has to be done. A contribution to an op that has already failed gets that
  /// same outcome at once (a FailOp with this one ticket). Gives the op if it goes on gathering. One that can neither
  /// begin nor fail, as the heap is full, fails at the next expire().
  Handle contribute(Contribution&& contribution, TimePoint now, std::vector<Action>& actions);
  /// Whether it began in this epoch.
  [[nodiscard]] bool is_own(OpId op) const;
  /// A started op is over, well or not.
  void finished(OpId op);
  /// The rank is lost (policy fail): every op that waits for it fails with PeerLost, and from now on every
  /// op that nobody had contributed to does. `lost` accumulates.
  /// Of a loss as many ops learn at once as `left` allows, and the first reform; the others with catch_up(), or when
  /// somebody comes to them. `left` goes down by one for each op, and by what its end costs.
  void lose(int rank, const Loss& loss, std::vector<Action>& actions, std::size_t& left);
  /// The rank is lost and nobody waits for it any more (policy shrink): ops that only waited for it start.
  /// Ops that need it in person (root, peer) fail with PeerLost.
  void shrink(int rank, const Loss& loss, std::vector<Action>& actions, std::size_t& left);
  /// The rank is vacant (policy wait): ops go on waiting for a replacement; at their deadline they fail with PeerLost.
  /// A reform goes on without it.
  void vacate(int rank, const Loss& loss, std::vector<Action>& actions, std::size_t& left);
  /// Takes what memory the loss needs. After that it can't fail, and ops that find none learn of it later.
  void prepare_loss(int rank, const Loss& loss);
  /// Whether there are ops that have not learned of a loss.
  [[nodiscard]] bool is_behind() const { return reforms_wait_ || any_is_behind(); }
  void catch_up(std::vector<Action>& actions, std::size_t& left);
  /// A replacement took the seat; it goes on where the seat stands.
  void reoccupy(int rank);
  /// Who has a rank's seat, and whether that process is stopped; for messages, so asked about few ranks. May be empty.
  using Locate = std::function<Whereabouts(int rank)>;
  /// Ops whose deadline has passed fail: Timeout naming the missing ranks (PeerLost if a vacant seat is missing). As
  /// many as `left` allows; next_deadline() is then that of the next one. One that has to learn of a loss does so
  /// instead, if that ends it.
  void expire(TimePoint now, std::vector<Action>& actions, std::size_t& left, const Locate& locate);
  /// Every pending op fails with this error (stop, group gone).
  void abort(const muster::Error& error, std::vector<Action>& actions);
  /// The epoch is over and nobody comes any more: ops that only waited for lost ranks start, the others fail with this
  /// error, and all are forgotten, as many as `left` allows. Again until it is empty.
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
  /// Ops that wait for this rank. Takes time for each of them, and for each that has its contribution and gathers.
  [[nodiscard]] std::vector<Owed> owed(int rank) const;
  /// What it takes to name them, about.
  [[nodiscard]] std::size_t owed_bytes(int rank) const;
  /// Ops that gather or run.
  [[nodiscard]] std::size_t in_flight() const { return gathering_ + running_; }
  /// Members that are lost or vacant.
  [[nodiscard]] std::set<int> lost() const;
  /// True if the contribution would be the first of its op. If that failed it would have to pay for the memory of it.
  [[nodiscard]] bool begins_op(const Contribution& contribution) const;

  static constexpr std::size_t seat_bytes = 24;  ///< what each seat of the group takes

  /// What a contribution takes while its op is pending, about, beside its key; it may be the first or the last to come.
  /// If the op fails, as much suffices for remembering it.
  [[nodiscard]] static constexpr std::size_t pending_bytes();

 private:
  friend class NodeAudit;  ///< of the tests: adds up what is held
  enum class Standing : std::uint8_t {
    absent,  ///< no member of this epoch
    live,
    vacant,  ///< gone, and a replacement is awaited
    gone,    ///< lost for the rest of the epoch
  };
  struct RankState {
    Standing standing = Standing::absent;
    std::uint32_t in_flight = 0;  ///< contributions that gather
    std::uint64_t position = 0;   ///< of its next op matched by order
    /// What it takes to name the sends and receives that wait for it, less that of the other ops it has come to: so
    /// this may wrap around, until what it takes to name all of those is added.
    std::uint64_t owed_bytes = 0;
  };

  /// What brings contributions together that aren't matched by order; those that have the same meet one after another.
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

  /// Slots are in a list by what they know of losses.
  using Knowledge = boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
  template <class Tag>
  using InSet = boost::intrusive::set_base_hook<boost::intrusive::tag<Tag>, boost::intrusive::optimize_size<true>,
                                                boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
  /// Those that gather are in order of their deadlines, and of their handles. Nothing is allocated for that, so it
  /// can't fail.
  using Due = InSet<struct DueTag>;
  using Handled = InSet<struct HandledTag>;

  struct Failure {
    muster::Error error;
    std::vector<bool> named;  ///< the ranks that the error names, if they are many: then it has none
  };

  /// Failed ops in a row, matched by order, of which no more is kept than their code. Somebody may still come to them.
  struct Dropped {
    muster::Code code{};
    Charge charge;  ///< that of one of them
  };

  /// An op from its first contribution until every rank that may come has come.
  struct Slot : Knowledge, Due, Handled {
    OpId id = 0;
    int peer = everyone;               ///< see Handle
    std::uint64_t sequence = 0;        ///< if matched by order
    const Match* match = nullptr;      ///< null: matched by order
    std::vector<bool> arrived;         ///< of one with a match: by rank; for a pair, the sender and the receiver
    std::size_t awaited = 0;           ///< contributions that may still come, as far as it knows of losses
    std::size_t losses_known = 0;      ///< how many of gone_
    std::shared_ptr<Op> op;            ///< null once the muster is over
    std::unique_ptr<Failure> failure;  ///< the outcome, if it failed and is remembered
    muster::Code forgotten{};          ///< what is still known of an outcome that is not remembered
    std::size_t remembered_bytes = 0;  ///< what remembering it takes, about
    Charge charge;                     ///< for that
    TimePoint since;
    TimePoint deadline;
    [[nodiscard]] Handle handle() const { return {peer, id}; }
    [[nodiscard]] bool gathering() const { return op != nullptr; }
    /// It was to end, and found no memory for it.
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
  /// The end that has come of a send and its recv.
  [[nodiscard]] static PairCall pair_call(const Slot& slot);
  /// In Slot::arrived.
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

  // losses.cpp: who may still come, and what a loss means for what is pending
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
  std::vector<int> gone_;         ///< those that don't come back, in the order of their losses
  bool refusing_ = false;         ///< new ops fail: a rank was lost under policy fail
  bool reforms_wait_ = false;     ///< some may be complete and have not begun

  std::deque<Slot> ordered_;  ///< by sequence number; the first one's is base_
  std::uint64_t base_ = 0;
  std::map<std::uint64_t, Dropped> dropped_;  ///< by the first of those in a row; they were before base_
  std::map<Match, std::list<Slot>> matches_;
  /// Those that know least come first, so that nobody has to look for them.
  boost::intrusive::list<Slot, boost::intrusive::base_hook<Knowledge>, boost::intrusive::constant_time_size<false>>
      by_knowledge_;
  boost::intrusive::set<Slot, boost::intrusive::base_hook<Due>, boost::intrusive::compare<Sooner>,
                        boost::intrusive::constant_time_size<false>>
      by_deadline_;
  boost::intrusive::set<Slot, boost::intrusive::base_hook<Handled>, boost::intrusive::key_of_value<HandleOf>,
                        boost::intrusive::constant_time_size<false>>
      by_handle_;
  std::uint64_t nameable_bytes_ = 0;  ///< what it takes to name all that gather, but for sends and receives
  std::map<OpId, Slot*> failures_;    ///< the remembered ones, oldest first
  std::size_t failures_bytes_ = 0;
  std::size_t gathering_ = 0;
  std::size_t running_ = 0;

  static constexpr std::size_t contributions_at_once = 4;  ///< an op has room for, from its first on
};

constexpr std::size_t Muster::pending_bytes() {
  static_assert(sizeof(RankState) == seat_bytes);
  constexpr std::size_t nodes_bytes = 256;  // of maps and lists, the op's name, what malloc adds
  return contributions_at_once * sizeof(Contribution) + sizeof(Op) + sizeof(Slot) + sizeof(Match) + nodes_bytes;
}

}  // namespace musterd
