// The outcomes of ops that succeeded, of groups that ask for it: who calls such an op again by its key gets what was
// decided then. That may be a rank that retries, or a process that took a lost rank's seat. What is remembered holds
// its objects. It is bounded for each group and each user, and the oldest goes first. It goes, too, when its user or
// the daemon has no room for something else, and when the group's epoch ends.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>

#include <muster/ipc/records.hpp>
#include <muster/result.hpp>

#include "collective/contribution.hpp"
#include "memory/ledger.hpp"
#include "session/group_state.hpp"
#include "session/remembered.hpp"
#include "session/running_op.hpp"
#include "session/turn.hpp"

namespace musterd {

class History {
 public:
  /// What the groups of one user may hold here, all together.
  struct Limits {
    std::uint64_t bytes = 0;  ///< of arrays
    std::uint64_t heap = 0;   ///< of the daemon's own memory, with that of the objects
  };
  History(Ledger& ledger, Limits of_user) : ledger_(ledger), of_user_(of_user) {}
  History(const History&) = delete;
  History& operator=(const History&) = delete;

  ~History();

  /// An outcome that gives all ranks together more objects than this is not remembered: all ranks may call it again at
  /// once, and are then given all of them in one event.
  static constexpr std::size_t given_max = 4096;
  /// Whether outcomes of such ops of the group are remembered.
  [[nodiscard]] static bool wants(const GroupState& state, muster::ipc::Kind kind, std::string_view key);
  /// The op gave these objects: to each contributor its own, or the same to all. Nothing is remembered where they are
  /// more than the group's history has room for, where nobody has room for the description, or where too much would
  /// have to be forgotten for it at once.
  void remember(GroupState& state, const Op& op, std::span<const Objects> given) noexcept;

  /// What a rank got.
  struct Found {
    std::size_t contributors = 0;
    Objects objects;
  };
  /// Nothing if the group does not remember an op of the call's key. Mismatch if that was another kind of op; Invalid
  /// if the rank had no part in it.
  [[nodiscard]] static std::optional<muster::Result<Found>> find(const GroupState& state, const std::string& key,
                                                                 const Contribution& call);

  [[nodiscard]] bool empty() const { return all_.empty(); }
  /// Forgets the oldest, of all users or of one: about so many bytes of them, but not too many at once. False if there
  /// is nothing to forget.
  bool drop(std::uint64_t bytes) noexcept;
  bool drop(UserId user, std::uint64_t bytes) noexcept {
    std::size_t left = effort_of_turn;
    return drop(user, bytes, left);
  }
  /// The same with as much effort as is left.
  bool drop(UserId user, std::uint64_t bytes, std::size_t& left) noexcept;

  /// Whether tables of epochs that have ended are left.
  [[nodiscard]] bool goes_on() const { return !ended_.empty(); }
  void go_on() noexcept;

 private:
  friend struct Remembered;
  friend struct EndTable;
  friend class NodeAudit;  ///< in the tests; adds up what is held
  using OfAll = boost::intrusive::list<Remembered, boost::intrusive::base_hook<RememberedOfAll>,
                                       boost::intrusive::constant_time_size<false>>;
  using OfOneUser = boost::intrusive::list<Remembered, boost::intrusive::base_hook<RememberedOfUser>,
                                           boost::intrusive::constant_time_size<false>>;
  struct OfUser {
    OfOneUser ops;
    std::uint64_t bytes = 0;
    std::uint64_t heap = 0;
  };
  [[nodiscard]] bool make_table(GroupState& state);
  void describe(Remembered& made, const Op& op, std::span<const Objects> given) const;
  [[nodiscard]] bool make_room(const GroupState& state, const Remembered& made) noexcept;
  /// How much work it is to forget an op, see effort_of_turn.
  [[nodiscard]] static std::size_t effort_of(const Remembered& op) { return 1 + op.objects.size(); }
  static void forget(Remembered& op) noexcept;

  Ledger& ledger_;
  Limits of_user_;
  OfAll all_;
  std::map<UserId, OfUser> users_;
  boost::intrusive::list<HistoryTable, boost::intrusive::constant_time_size<false>> ended_;
};

}  // namespace musterd
