// How the members of a group learn of a loss, a replacement or a new epoch. There may be a thousand members, and
// changes may come faster than all of them can be told. So each group has at most one pending round of tellings, which
// tells the newest state.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include <muster/ipc/records.hpp>

#include "session/clients.hpp"
#include "session/group_state.hpp"
#include "session/outside.hpp"

namespace musterd {

class GroupNews {
 public:
  GroupNews(Clients& clients, Outside& outside) : clients_(clients), outside_(outside) {}

  /// Tells the first members of the group now; the others are told in later turns. `left` goes down by the effort.
  void tell(GroupState& state, std::size_t& left) noexcept;
  /// Notes that every member of the group has to be told, once `groups` are given to tell().
  static void note(GroupState& state, UntoldGroups& groups) noexcept;
  /// Tells the members of these groups, some of them now.
  void tell(UntoldGroups& groups, std::size_t& left) noexcept;

  [[nodiscard]] bool goes_on() const { return !untold_.empty(); }
  void go_on() noexcept;

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  void tell_some(UntoldGroups& untold, std::size_t& left) noexcept;
  [[nodiscard]] bool tell_some(GroupState& state, std::size_t& left) noexcept;
  void tell_member(const Seat& seat, std::optional<muster::ipc::GroupChanged>& changed,
                   std::vector<std::byte>& body) noexcept;

  Clients& clients_;
  Outside& outside_;
  UntoldGroups untold_;
};

}  // namespace musterd
