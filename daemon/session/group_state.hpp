// A group with the ops of its running epoch, and what finds it.
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

namespace musterd {

// A group is in the lists below without an allocation, and gone from them with its end.
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
  std::unique_ptr<Muster> muster;  ///< never null
  /// Of one rank, in its order. The first `early` ones were called before the epoch began.
  struct Waiting {
    std::deque<Contribution> ops;
    std::size_t early = 0;
  };
  std::map<int, Waiting> early;   ///< of newcomers by rank, for the next epoch
  std::map<int, Waiting> coming;  ///< of members by rank: have not had their turns since the epoch began
  [[nodiscard]] bool is_settled() const { return coming.empty() && !muster->is_behind(); }
  [[nodiscard]] bool settles() const { return UnsettledHook::is_linked(); }
  /// So many ranks from this one on, after the last one the first again, have not been told of the newest change. What
  /// changes meanwhile starts the round anew where it stands, so none waits for ever, and nothing piles up.
  int next_to_tell = 0;
  int untold_ranks = 0;
  [[nodiscard]] bool tells() const { return UntoldHook::is_linked(); }
  std::uint32_t epoch_to_end = 0;  ///< that of which the end was proposed last, and not decided at once
  std::uint64_t ops_done = 0;
  std::uint64_t ops_failed = 0;
  TimePoint watched;  ///< when its deadlines are looked at next, if it is among the groups by deadline
  Charge charge;
  std::map<int, Charge> lost;  ///< what the group knows of a lost rank is charged to the client that had its seat
  /// Of an open group, where its results lie. Whenever who is in it changes, later results go elsewhere: what a
  /// process was given of a segment shows it the rest for as long as it likes. By the user who pays for them.
  std::map<UserId, PoolApart> results;
};
using GroupPtr = std::shared_ptr<GroupState>;
/// Groups whose members have to be told of a change.
using UntoldGroups = boost::intrusive::list<GroupState, boost::intrusive::base_hook<UntoldHook>,
                                            boost::intrusive::constant_time_size<false>>;

/// Open groups are found by everybody's name for them, others by their own user's.
struct GroupKey {
  bool open = false;
  bool made = false;
  std::uint32_t user = 0;  ///< 0 for open ones
  std::string_view name;   ///< the group's own
  auto operator<=>(const GroupKey&) const = default;
};
[[nodiscard]] inline GroupKey key_of(const Group::Settings& settings) {
  return {settings.open, settings.made, settings.open ? 0 : settings.user, settings.name};
}

/// By name.
using Groups = std::map<GroupKey, GroupPtr>;

}  // namespace musterd
