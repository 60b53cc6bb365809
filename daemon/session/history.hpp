// The outcomes of ops that succeeded, of groups that ask for it: who calls such an op again by its key gets what was
// decided then. That may be a rank that retries, or a process that took a lost rank's seat. What is remembered holds
// its objects. It is bounded in bytes for each group and each user; the oldest goes first, and all of it goes while
// others wait for memory.
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

  /// Whether the outcome of this op of the group is worth remembering.
  [[nodiscard]] static bool wants(const GroupState& state, muster::ipc::Kind kind, std::string_view key);
  /// The op gave these objects: to each contributor its own, or the same to all. Nothing is remembered where they are
  /// more than the group's history has room for, or nobody has room for the description.
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
  /// Forgets the oldest, about so many bytes of them, but not too many at once. False if there is nothing to forget.
  bool drop(std::uint64_t bytes) noexcept;

 private:
  friend struct Remembered;
  friend class NodeAudit;  ///< of the tests: adds up what is held
  struct OfUser {
    boost::intrusive::list<Remembered, boost::intrusive::base_hook<RememberedOfUser>,
                           boost::intrusive::constant_time_size<false>>
        ops;
    std::uint64_t bytes = 0;
    std::uint64_t heap = 0;
  };
  void make_room(GroupState& state, const Remembered& made) noexcept;
  static void forget(Remembered& oldest) noexcept;

  Ledger& ledger_;
  Limits of_user_;
  boost::intrusive::list<Remembered, boost::intrusive::base_hook<RememberedOfAll>,
                         boost::intrusive::constant_time_size<false>>
      all_;
  std::map<UserId, OfUser> users_;
};

}  // namespace musterd
