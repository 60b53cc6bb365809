// A group with the ops of its running epoch, and the keys that it is found by.
#pragma once

#include <boost/intrusive/list.hpp>
#include <boost/intrusive/set.hpp>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string_view>
#include <utility>

#include "cluster/group.hpp"
#include "collective/muster.hpp"
#include "memory/ledger.hpp"
#include "memory/result_pool.hpp"
#include "session/remembered.hpp"

namespace musterd {

// These hooks link a group into lists without an allocation, and take it out of them at its end.
using GroupByDeadline = boost::intrusive::set_base_hook<boost::intrusive::tag<struct OfDeadline>,
                                                        boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
using UnsettledHook = boost::intrusive::list_base_hook<boost::intrusive::tag<struct OfUnsettled>,
                                                       boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
using UntoldHook = boost::intrusive::list_base_hook<boost::intrusive::tag<struct OfUntold>,
                                                    boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

struct GroupState : GroupByDeadline, UnsettledHook, UntoldHook, std::enable_shared_from_this<GroupState> {
  GroupState(Group::Settings settings, Muster::Limits limits, Charge place)
      : group(std::move(settings)),
        muster(std::make_unique<Muster>(group.settings().world_size, group.members(), limits)),
        charge(std::move(place)) {}
  Group group;
  std::unique_ptr<Muster> muster;  ///< is never null
  /// The waiting ops of one rank, in its order. The first `early` ones were called before the epoch began.
  struct Waiting {
    std::deque<Contribution> ops;
    std::size_t early = 0;
  };
  std::map<int, Waiting> early;   ///< ops of newcomers for the next epoch, by rank
  std::map<int, Waiting> coming;  ///< ops of members that have not had their turns since the epoch began, by rank
  [[nodiscard]] bool is_settled() const { return coming.empty() && !muster->is_behind(); }
  [[nodiscard]] bool settles() const { return UnsettledHook::is_linked(); }
  /// `untold_ranks` ranks, from `next_to_tell` on and past the last one from rank 0 on, have not been told of the
  /// newest change. Another change meanwhile starts a full round from the current position. So no rank waits for ever,
  /// and nothing piles up.
  int next_to_tell = 0;
  int untold_ranks = 0;
  [[nodiscard]] bool tells() const { return UntoldHook::is_linked(); }
  std::uint32_t epoch_to_end = 0;  ///< the epoch whose end was proposed last, and not decided at once
  std::uint64_t ops_done = 0;
  std::uint64_t ops_failed = 0;
  TimePoint watched;  ///< when its deadlines are looked at next, if it is among the groups by deadline
  Charge charge;
  std::map<int, Charge> lost;  ///< by lost rank: for what is known of it; the client that had the seat pays
  /// Where the results of an open group lie, by the user who pays for them. Whenever the group's members change, later
  /// results go to new segments: a process that was given one result of a segment can read the whole segment for as
  /// long as it likes.
  std::map<std::pair<UserId, Resource>, PoolApart> results;
  HistoryTablePtr history;  ///< the outcomes of this epoch that are remembered, see History; null while there are none
};
using GroupPtr = std::shared_ptr<GroupState>;
/// Groups whose members have to be told of a change.
using UntoldGroups = boost::intrusive::list<GroupState, boost::intrusive::base_hook<UntoldHook>,
                                            boost::intrusive::constant_time_size<false>>;

/// The name of an open group is shared by all users. The names of other groups are each user's own.
struct GroupKey {
  bool open = false;
  bool made = false;
  std::uint32_t user = 0;  ///< 0 for open groups
  std::string_view name;   ///< refers to the group's own string
  auto operator<=>(const GroupKey&) const = default;
};
[[nodiscard]] inline GroupKey key_of(const Group::Settings& settings) {
  return {settings.open, settings.made, settings.open ? 0 : settings.user, settings.name};
}

/// Groups by name.
using Groups = std::map<GroupKey, GroupPtr>;

}  // namespace musterd
