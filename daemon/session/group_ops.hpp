// A group's seats, epochs and ops: who joins and leaves, how contributions come together, and what follows from a loss,
// a split or a reform. An event may concern thousands of ops, so what takes long is done in pieces: see goes_on(). It
// is one class, as losses, epochs and splits change the same lists (adr/0014).
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <muster/ipc/records.hpp>
#include <muster/result.hpp>

#include "base/time.hpp"
#include "cluster/group.hpp"
#include "collective/muster.hpp"
#include "memory/admission.hpp"
#include "memory/ledger.hpp"
#include "session/clients.hpp"
#include "session/group_news.hpp"
#include "session/group_state.hpp"
#include "session/group_table.hpp"
#include "session/op_counts.hpp"
#include "session/op_runs.hpp"
#include "session/outside.hpp"
#include "session/retries.hpp"
#include "session/teller.hpp"
#include "session/undecided.hpp"
#include "session/works.hpp"
#include "store/store.hpp"

namespace musterd {

class GroupOps {
 public:
  struct Parts {
    Ledger& ledger;
    const Store& store;
    const Admission& admission;
    Clients& clients;
    Teller& teller;
    Works& works;
    GroupTable& table;
    OpRuns& runs;
    Retries& retries;
    Outside& outside;
    OpCounts& counts;
    /// Runs a call from outside as an event of the node.
    std::function<void(FunctionRef)> event;
    const bool& stopping;  ///< then no op begins any more
    const TimePoint& now;  ///< the time of the event that runs
  };
  explicit GroupOps(Parts parts);

  /// Takes a seat, and replies to the request.
  void join(Client& client, std::uint64_t request, Group::Settings settings, int rank);
  [[nodiscard]] muster::Result<void> leave(Client& client, SeatId seat, const Loss& loss, TimePoint now);
  /// Usually done at once. If there are many seats, they are lost one by one, and others have their turns in between.
  void lose_all_seats(Client& client, const Loss& loss, TimePoint now);
  /// If anything is wrong with the contribution, its work fails.
  void contribute(Client& client, muster::ipc::Contribute&& contribute, TimePoint now);
  /// Fails ops whose deadlines have passed. If they are many, this fails some, and the next tick the rest.
  void expire(TimePoint now);

  [[nodiscard]] bool goes_on() const {
    return !leaving_.empty() || !unsettled_.empty() || !unsettled_groups_.empty() || news_.goes_on() ||
           undecided_.goes_on();
  }
  void go_on(TimePoint now);
  /// Fails every op.
  void stop(const muster::Error& error, TimePoint now);

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held

  // group_ops.cpp: from contribution to decision
  [[nodiscard]] static muster::Result<const Client::Seated*> seat_of(const Client& client,
                                                                     const muster::ipc::Contribute& contribute);
  [[nodiscard]] muster::Result<Inputs> inputs_of(const Client& client, const muster::ipc::Contribute& contribute,
                                                 const muster::Result<Charge>& charge) const;
  [[nodiscard]] bool pay_for_failure(const Client& client, const GroupPtr& state, Contribution& contribution);
  void give_up_seat(Client& client, const muster::ipc::Contribute& contribute, const muster::Error& error,
                    TimePoint now);
  /// Hands the contribution to the group's muster, and performs what it decides. Returns these actions.
  std::vector<Action> muster(const GroupPtr& state, Contribution&& contribution, TimePoint now);
  /// Performs what `decide(actions)` decides. If that throws, the actions so far are performed all the same.
  template <class Decide>
  std::vector<Action> decide(const GroupPtr& state, TimePoint now, Decide decide) {
    std::vector<Action> actions;
    try {
      decide(actions);
    } catch (const std::exception&) {
      perform(state, actions, now);
      throw;
    }
    perform(state, actions, now);
    return actions;
  }
  void perform(const GroupPtr& state, std::span<Action> actions, TimePoint now) noexcept;
  void propose(const GroupPtr& state, const OpPtr& op, TimePoint now) noexcept;
  void carry_out(const GroupPtr& state, const OpPtr& op, const Decision& decision, TimePoint now) noexcept;
  void carry_out(const Undecided::Item& item, const Decision& decision);
  [[nodiscard]] UserId payer_of(const GroupState& state, const Op& op) const;
  [[nodiscard]] Payer payer_of(const Contribution& contribution) const;

  // joining.cpp, leaving.cpp, deadlines.cpp
  [[nodiscard]] static muster::Result<void> check_owed(const GroupState& state, int rank);
  void reply_joined(Client& client, std::uint64_t request, GroupState& state, const Seat& seat, Group::Joined joined);
  enum class AfterLoss : std::uint8_t {
    silence,  ///< the members know already, or there are none
    tell,     ///< the members have to be told
  };
  [[nodiscard]] muster::Error with_holder(const muster::Error& error, const Client& asks,
                                          const std::optional<Seat>& taken) const;
  [[nodiscard]] AfterLoss lose_seat(SeatId seat, Client::Seated& seated, const Loss& loss, std::size_t& left,
                                    TimePoint now);
  /// The seats of a client that is gone which have not been lost yet.
  struct Leaving {
    Client::Seats seats;
    Loss loss;
    UntoldGroups untold;  ///< their members are told when all seats are lost
  };
  void lose(Leaving& leaving, Client::Seats::iterator seat, std::size_t& left, TimePoint now);
  [[nodiscard]] bool lose_some(Leaving& leaving, TimePoint now);
  void lose_more(TimePoint now);
  bool lose_before_its_turn(const GroupPtr& state, int rank);
  [[nodiscard]] static std::vector<Action> lose_by_policy(GroupState& state, int rank, const Loss& loss,
                                                          std::size_t& left);
  void withdraw_waiting(const GroupPtr& state, int rank, std::size_t& left, TimePoint now);
  /// Ops that still have to learn of a loss, or of the end of their epoch.
  struct Unsettled {
    GroupPtr group;
    std::unique_ptr<Muster> ended;       ///< the muster of an epoch that is over
    std::deque<Contribution> withdrawn;  ///< contributions of a rank that left before they had a place
    muster::Error why;                   ///< the error that these ops fail with
  };
  using UnsettledNode = std::list<Unsettled>;  ///< holds one element
  void settle_own(const GroupPtr& state, std::size_t& left, TimePoint now);
  void settle(UnsettledNode unsettled, std::size_t& left, TimePoint now);
  [[nodiscard]] bool settle_some(Unsettled& unsettled, std::size_t& left, TimePoint now);
  [[nodiscard]] bool settle_some(const GroupPtr& state, std::size_t& left, TimePoint now);
  void settle_more(TimePoint now);
  void take_place(const GroupPtr& state, std::size_t& left, TimePoint now);
  /// The next epoch of a group, and how the ops of the old one fail. Making this is all that needs memory.
  struct NextEpoch {
    std::uint32_t number = 0;
    std::vector<int> members;
    UnsettledNode ended;
    std::list<Unsettled> behind;  ///< one for each rank that waits for its turn
  };
  void propose_epoch(const GroupPtr& state, TimePoint now);
  void end_group(const GroupPtr& state, std::size_t& left, TimePoint now);
  [[nodiscard]] static muster::Error all_gone();
  [[nodiscard]] NextEpoch prepare_epoch(const GroupPtr& state, std::uint32_t number, muster::Error why) const;
  [[nodiscard]] UnsettledNode end_epoch(const GroupPtr& state, muster::Error why) const;
  void begin_epoch(const GroupPtr& state, NextEpoch next, TimePoint now);
  void pay_for_epochs(std::size_t& left);
  [[nodiscard]] static muster::ipc::Done epoch_of(const GroupState& state);
  [[nodiscard]] Whereabouts locate(const GroupState& state, int rank, std::size_t& looks_left) const;
  void expire_early(const GroupPtr& state, TimePoint now, std::size_t& left);
  void expire_early(GroupState& state, Contribution& contribution, const std::vector<int>& members);

  // splitting.cpp
  struct Child {
    GroupPtr group;
    std::vector<const Contribution*> members;  ///< by rank
    std::vector<Charge> seats;                 ///< by rank
  };
  [[nodiscard]] muster::Result<std::map<int, std::vector<const Contribution*>>> members_by_color(const Op& op) const;
  [[nodiscard]] muster::Result<std::vector<Child>> make_children(const Group::Settings& parent, const Op& op);
  void split(const GroupPtr& state, const Op& op);
  void seat_in_children(std::vector<Child>& children, const Op& op);
  void seat_in_child(const GroupPtr& child, const Contribution& contribution, int rank, Charge charge);
  void reform(const GroupPtr& state, const Op& op, std::uint32_t next_epoch, TimePoint now);

  Parts parts_;
  GroupNews news_;
  std::list<Leaving> leaving_;
  std::list<Unsettled> unsettled_;
  /// Groups with ops that have to learn of losses, or have to take their places in the order.
  boost::intrusive::list<GroupState, boost::intrusive::base_hook<UnsettledHook>,
                         boost::intrusive::constant_time_size<false>>
      unsettled_groups_;
  Undecided undecided_;
  std::size_t spent_on_epochs_ = 0;  ///< effort that nobody has paid for yet
  std::uint64_t last_split_ = 0;
};

}  // namespace musterd
