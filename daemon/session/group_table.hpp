// The groups by name, the charges for them and their seats, and when to look at their deadlines next.
#pragma once

#include <boost/intrusive/set.hpp>
#include <cstdint>
#include <optional>

#include <muster/result.hpp>

#include "base/time.hpp"
#include "collective/muster.hpp"
#include "memory/ledger.hpp"
#include "session/clients.hpp"
#include "session/former_seats.hpp"
#include "session/group_state.hpp"

namespace musterd {

class GroupTable {
 public:
  struct Limits {
    std::size_t seats_max = 0;  ///< of one client
    Muster::Limits muster;
  };
  GroupTable(Ledger& ledger, Limits limits) : ledger_(ledger), limits_(limits) {}
  ~GroupTable() { groups_.clear(); }
  GroupTable(const GroupTable&) = delete;
  GroupTable& operator=(const GroupTable&) = delete;

  /// The group that a process means by a name: first a group that a process named, then one that a split made. Null if
  /// there is none.
  [[nodiscard]] GroupPtr find(Group::Settings settings) const;
  /// Makes a group. There must be none with this name.
  [[nodiscard]] muster::Result<GroupPtr> make(Group::Settings settings, Payer maker);
  void remove(const GroupPtr& state);
  [[nodiscard]] const Groups& all() const { return groups_; }
  void clear() { groups_.clear(); }
  [[nodiscard]] const Muster::Limits& muster_limits() const { return limits_.muster; }

  // ---- seats ----
  [[nodiscard]] muster::Result<void> check_seats(const Client& client, std::size_t more) const;
  /// Charges for a seat, and for what is known of it once it is lost.
  [[nodiscard]] muster::Result<Charge> charge_seat(Payer payer);
  /// Makes a seat of the client, and room for it among the client's others, so that inserting it can't fail.
  [[nodiscard]] static Client::Seats::node_type make_seat(Client& client, SeatId seat, Client::Seated seated);
  /// A number that no seat of the client or the group has: numbers come around after some billions of seats.
  [[nodiscard]] SeatId next_seat(const Client* client, const Group& group);

  [[nodiscard]] FormerSeats& former() { return former_; }
  [[nodiscard]] const FormerSeats& former() const { return former_; }

  // ---- deadlines ----
  /// Makes sure that the group is looked at by this time.
  void watch(GroupState& state, std::optional<TimePoint> deadline);
  static void unwatch(GroupState& state);
  /// The first group that is due; null if there is none.
  [[nodiscard]] GroupPtr first_due(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  struct WatchedUntil {
    using type = TimePoint;
    const type& operator()(const GroupState& state) const { return state.watched; }
  };

  Ledger& ledger_;
  Limits limits_;
  Groups groups_;
  FormerSeats former_;
  /// Groups by when to look at their deadlines. None of a group's ops is due earlier. The op that had this deadline may
  /// be over already, so an op that ends quickly costs nothing here.
  boost::intrusive::multiset<GroupState, boost::intrusive::base_hook<GroupByDeadline>,
                             boost::intrusive::key_of_value<WatchedUntil>, boost::intrusive::constant_time_size<false>>
      by_deadline_;
  std::uint32_t last_seat_ = 0;
  bool numbers_repeat_ = false;  ///< all numbers of seats have been given once
};

}  // namespace musterd
