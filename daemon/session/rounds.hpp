// Whose turn it is on the control thread. In each round every process with something to do has one slice of time. Its
// connections, however many, share that slice. A round has a maximum length. If that was not enough for all, the next
// round begins with the processes whose turns have been short; these have at most half of it. The others follow: those
// that have cost least lately, first by user, then by process. So a process that asks for little waits for little more
// than one round, however many others ask for much.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/time.hpp"
#include "session/slice.hpp"
#include "session/turn_cost.hpp"

namespace musterd {

/// The connections with something to do, by process. Member is a shared pointer to a connection. The connection has a
/// member `lane`, of type Rounds<Member>::LanePtr, for as long as it may be here.
template <class Member>
class Rounds {
 public:
  struct Lane;
  using LanePtr = std::shared_ptr<Lane>;
  struct User {
    RecentCost cost;  ///< of all its processes, ended ones too, while one of them lives
    std::size_t lanes = 0;
  };
  /// All lanes and users that exist.
  struct Known {
    std::unordered_map<std::uint64_t, std::weak_ptr<Lane>> lanes;  ///< by user and process
    std::unordered_map<std::uint32_t, User> users;
  };
  /// The connections of one process.
  struct Lane {
    Lane(std::uint32_t of_user, std::int32_t process, std::shared_ptr<Known> all)
        : user_id(of_user), pid(process), known(std::move(all)), user(&known->users[user_id]) {
      ++user->lanes;
    }
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;
    ~Lane() {
      if (pid != 0) known->lanes.erase(key_of(user_id, pid));
      if (--user->lanes == 0) known->users.erase(user_id);
    }
    std::uint32_t user_id;
    std::int32_t pid;
    std::shared_ptr<Known> known;  ///< a lane may outlive the rounds
    User* user;
    RecentCost cost;
    ExpectedCost next_cost;
    std::uint64_t served = 0;     ///< the round in which it had its last turn, or came
    std::vector<Member> members;  ///< the connections with something to do
    std::size_t next = 0;         ///< whose turn it is
  };

  static constexpr Duration length = std::chrono::milliseconds(1);  ///< of a round; its last turns may take longer

  explicit Rounds(RoundsClock clock) : clock_(std::move(clock)) {}

  /// The lane of a process. Pid 0 is a process that the daemon can't see; each call for it makes a new lane. A newcomer
  /// begins with the average cost of its user's processes, so it gains nothing by connecting anew.
  [[nodiscard]] LanePtr lane_of(std::uint32_t user, std::int32_t pid, TimePoint now) {
    const auto key = key_of(user, pid);
    if (const auto found = known_->lanes.find(key); found != known_->lanes.end()) return found->second.lock();
    auto lane = std::make_shared<Lane>(user, pid, known_);
    if (pid != 0) known_->lanes.emplace(key, lane);
    lane->user->cost.forget(now);
    lane->cost.add(lane->user->cost.sum() / lane->user->lanes, now);
    lane->served = rounds_;
    return lane;
  }

  [[nodiscard]] bool empty() const { return busy_.empty(); }

  /// Adds a connection, which has its first turn in the next round. If this throws, as there is no memory, it was not
  /// added.
  void add(const Member& member) {
    Lane& lane = *member->lane;
    lane.members.push_back(member);
    if (lane.members.size() > 1) return;
    try {
      busy_.push_back(&lane);
    } catch (...) {
      lane.members.pop_back();
      throw;
    }
  }

  void remove(const Member& member) {
    Lane& lane = *member->lane;
    const auto found = std::find(lane.members.begin(), lane.members.end(), member);
    if (found == lane.members.end()) return;
    const auto place = static_cast<std::size_t>(found - lane.members.begin());
    if (place < lane.next) --lane.next;
    lane.members.erase(found);
    if (lane.members.empty()) take_out(lane);
  }

  void clear() {
    next_ = end_ = short_end_ = 0;
    // The last member takes its lane with it.
    for (Lane* lane : std::exchange(busy_, {})) const auto members = std::exchange(lane->members, {});
  }

  template <class Visit>
  void for_each(Visit visit) const {
    for (const Lane* lane : busy_)
      for (const Member& member : lane->members) visit(member);
  }

  /// Runs one round, which begins `now`. `has_work(member)` says whether a connection has something to do.
  /// `serve(member, slice)` does some of it, and may add and remove connections. True if there was something to do.
  template <class HasWork, class Serve>
  bool round(TimePoint now, HasWork has_work, Serve serve) {
    ++rounds_;
    if (now - core_asked_ > Slice::length) on_core_ = clock_.on_core(), core_asked_ = now;
    // While there is time for all, their order does not matter.
    short_end_ = too_short_ ? arrange(now) : 0;
    const TimePoint begin = now;
    bool worked = false;
    next_ = 0;
    end_ = busy_.size();
    const auto serve_until = [&](const std::size_t& end, TimePoint until) {
      while (next_ < end && now < until) worked |= serve_lane(*busy_[next_++], now, has_work, serve);
      return next_ >= end;
    };
    too_short_ = !serve_until(short_end_, begin + length / 2);
    next_ = std::max(next_, short_end_);
    too_short_ |= !serve_until(end_, begin + length);
    // So no process waits forever for those that cost less.
    if (Lane* const lane = too_short_ ? longest_waiting(has_work) : nullptr) serve_lane(*lane, now, has_work, serve);
    return worked;
  }

 private:
  [[nodiscard]] static std::uint64_t key_of(std::uint32_t user, std::int32_t pid) {
    return std::uint64_t{user} << 32 | static_cast<std::uint32_t>(pid);
  }

  /// Takes a lane out; those behind it move up.
  void take_out(const Lane& lane) {
    const auto at = std::find(busy_.begin(), busy_.end(), &lane);
    if (at == busy_.end()) return;
    const auto place = static_cast<std::size_t>(at - busy_.begin());
    if (place < next_) --next_;
    if (place < short_end_) --short_end_;
    if (place < end_) --end_;
    busy_.erase(at);
  }

  /// Sorts the lanes: processes whose turns are short come first, whatever other processes of their users do. Returns
  /// how many these are.
  std::size_t arrange(TimePoint now) {
    for (Lane* lane : busy_) {
      lane->cost.forget(now);
      lane->user->cost.forget(now);
    }
    const auto key = [](const Lane* lane) {
      const bool is_short = lane->next_cost.is_short();
      return std::tuple(!is_short, is_short ? 0 : lane->user->cost.sum(), lane->cost.sum() + lane->next_cost.get(),
                        lane->served);
    };
    std::sort(busy_.begin(), busy_.end(), [&](const Lane* a, const Lane* b) { return key(a) < key(b); });
    return static_cast<std::size_t>(
        std::count_if(busy_.begin(), busy_.end(), [](const Lane* lane) { return lane->next_cost.is_short(); }));
  }

  /// The lane that has waited longest, of those that had no turn in this round.
  template <class HasWork>
  [[nodiscard]] Lane* longest_waiting(HasWork& has_work) const {
    Lane* longest = nullptr;
    for (std::size_t i = 0; i < end_; ++i) {
      Lane* const lane = busy_[i];
      if (lane->served >= (longest ? longest->served : rounds_)) continue;
      const auto& members = lane->members;
      if (std::any_of(members.begin(), members.end(), [&](const Member& member) { return has_work(*member); }))
        longest = lane;
    }
    return longest;
  }

  /// How much of a turn the thread had a core. If another process took the core meanwhile, that time does not count.
  [[nodiscard]] Duration time_taken(TimePoint begin, TimePoint end) {
    if (end - begin < Slice::length / 2) return end - begin;
    const Duration before = std::exchange(on_core_, clock_.on_core());
    core_asked_ = end;
    return std::min<Duration>(end - begin, on_core_ - before);
  }

  /// Serves one lane. False if it had nothing to do.
  template <class HasWork, class Serve>
  bool serve_lane(Lane& lane, TimePoint& now, HasWork& has_work, Serve& serve) {
    Slice slice(clock_, now);
    Member member;  // keeps the lane, too
    for (std::size_t left = lane.members.size(); left > 0 && !lane.members.empty(); --left) {
      if (lane.next >= lane.members.size()) lane.next = 0;
      const Member& next = lane.members[lane.next];
      if (!has_work(*next)) {
        ++lane.next;
        continue;
      }
      if (member && !slice.lasts()) break;
      member = next;
      ++lane.next;
      serve(member, slice);
      if (slice.over()) break;
    }
    if (!member) return false;
    const TimePoint ended = clock_.now();
    const auto cost = RecentCost::of_turn(time_taken(now, ended));
    lane.cost.add(cost, ended);
    lane.next_cost.learn(cost);
    lane.user->cost.add(cost, ended);
    lane.served = rounds_;
    now = ended;
    return true;
  }

  RoundsClock clock_;
  TimePoint core_asked_;     ///< when the thread was last asked for its time on a core
  Duration on_core_{};       ///< the answer
  std::vector<Lane*> busy_;  ///< lanes with members
  // The lanes in [next_, end_) have not had their turns in this round.
  std::size_t next_ = 0;
  std::size_t end_ = 0;
  std::size_t short_end_ = 0;  ///< lanes before this index have short turns
  std::uint64_t rounds_ = 0;
  bool too_short_ = false;  ///< the last round was too short for all that had something to do
  std::shared_ptr<Known> known_ = std::make_shared<Known>();
};

}  // namespace musterd
