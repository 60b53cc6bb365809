// Whose turn it is on the control thread. In each round every process with something to do has one slice of time,
// however many connections it has, and these have their turns within it. Processes that use their slices up go behind
// all others, so one that seldom asks for anything never waits for more than one round.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/time.hpp"

namespace musterd {

/// What a process has left of its turn. One thing that is done may take longer than there is.
class Slice {
 public:
  static constexpr Duration length = std::chrono::microseconds(200);

  enum class Cost : std::uint8_t {
    quick,  ///< gives something up, or only takes note: the clock is not asked for each of these
    any,
  };
  /// Something was done.
  void spend(Cost cost) { since_clock_ = cost == Cost::quick ? since_clock_ + 1 : quick_max; }
  /// Whether there is time for more. The usual turn does one thing and never asks.
  [[nodiscard]] bool lasts() {
    if (since_clock_ < quick_max) return true;
    since_clock_ = 0;
    const auto now = Clock::now();
    if (until_ == TimePoint{}) until_ = now + length;
    over_ = now >= until_;
    return !over_;
  }
  [[nodiscard]] bool over() const { return over_; }

 private:
  static constexpr int quick_max = 16;  // in a row
  int since_clock_ = 0;
  TimePoint until_;
  bool over_ = false;
};

/// The connections with something to do, by process. Member: a shared pointer to a connection; it has `lane`, of type
/// Rounds<Member>::LanePtr, for as long as it may be here.
template <class Member>
class Rounds {
 public:
  struct Lane;
  using LanePtr = std::shared_ptr<Lane>;
  using Lanes = std::unordered_map<std::int32_t, std::weak_ptr<Lane>>;  ///< by process
  /// The connections of one process.
  struct Lane {
    Lane(std::int32_t process, std::shared_ptr<Lanes> all) : pid(process), lanes(std::move(all)) {}
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;
    ~Lane() { lanes->erase(pid); }
    std::int32_t pid;
    std::shared_ptr<Lanes> lanes;  ///< it may outlive the rounds
    std::vector<Member> members;   ///< those with something to do
    std::size_t next = 0;          ///< whose turn it is
  };

  /// That of the process; 0: a process that the daemon can't see, and each is taken for another one.
  [[nodiscard]] LanePtr lane_of(std::int32_t pid) {
    if (const auto known = lanes_->find(pid); known != lanes_->end()) return known->second.lock();
    auto lane = std::make_shared<Lane>(pid, lanes_);
    if (pid != 0) lanes_->emplace(pid, lane);
    return lane;
  }

  [[nodiscard]] bool empty() const { return busy_.empty(); }

  void add(const Member& member) {
    Lane& lane = *member->lane;
    lane.members.push_back(member);
    if (lane.members.size() > 1) return;
    // It may have waited already, so it is before those that have much to do; the round that runs goes on as it was.
    busy_.insert(busy_.begin(), &lane);
    ++next_;
    ++end_;
  }

  void remove(const Member& member) {
    Lane& lane = *member->lane;
    const auto found = std::find(lane.members.begin(), lane.members.end(), member);
    if (found == lane.members.end()) return;
    const auto place = static_cast<std::size_t>(found - lane.members.begin());
    if (place < lane.next) --lane.next;
    lane.members.erase(found);
    if (!lane.members.empty()) return;
    if (const auto at = place_of(&lane); at != busy_.end()) {
      take_out(at);
      busy_.erase(at);
    }
  }

  void clear() {
    next_ = end_ = 0;
    // The last member takes its lane with it.
    for (Lane* lane : std::exchange(busy_, {})) const auto members = std::exchange(lane->members, {});
  }

  template <class Visit>
  void for_each(Visit visit) const {
    for (const Lane* lane : busy_)
      for (const Member& member : lane->members) visit(member);
  }

  /// One round. `has_work(member)`: whether it has something to do; `serve(member, slice)` does some of it, and may add
  /// and remove anything. True if there was something.
  template <class HasWork, class Serve>
  bool round(HasWork has_work, Serve serve) {
    // Events have to be looked at, too, and processes that have little to do.
    constexpr int slices_max = 4;
    bool worked = false;
    int slices = 0;
    next_ = 0;
    end_ = busy_.size();
    while (next_ < end_ && slices < slices_max) {
      Lane* const lane = busy_[next_++];
      const Served served = serve_lane(*lane, has_work, serve);
      worked |= served != Served::nothing;
      if (served != Served::whole_slice) continue;
      ++slices;
      // It may have gone meanwhile.
      if (const auto at = place_of(lane); at != busy_.end()) {
        take_out(at);
        std::rotate(at, at + 1, busy_.end());
      }
    }
    return worked;
  }

 private:
  using Place = typename std::vector<Lane*>::iterator;
  /// The end if it has nothing to do.
  [[nodiscard]] Place place_of(const Lane* lane) { return std::find(busy_.begin(), busy_.end(), lane); }
  /// A lane leaves its place, and those behind it move up.
  void take_out(Place at) {
    const auto place = static_cast<std::size_t>(at - busy_.begin());
    if (place < next_) --next_;
    if (place < end_) --end_;
  }

  enum class Served : std::uint8_t { nothing, some, whole_slice };

  template <class HasWork, class Serve>
  static Served serve_lane(Lane& lane, HasWork& has_work, Serve& serve) {
    Slice slice;
    Member member;  // keeps the lane, too
    for (std::size_t left = lane.members.size(); left > 0 && !lane.members.empty(); --left) {
      if (lane.next >= lane.members.size()) lane.next = 0;
      const Member& next = lane.members[lane.next];
      if (!has_work(*next)) {
        ++lane.next;
        continue;
      }
      if (member && !slice.lasts()) return Served::whole_slice;
      member = next;
      ++lane.next;
      serve(member, slice);
      if (slice.over()) return Served::whole_slice;
    }
    return member ? Served::some : Served::nothing;
  }

  std::vector<Lane*> busy_;  ///< with members
  // Those in between have not had their turns in this round.
  std::size_t next_ = 0;
  std::size_t end_ = 0;
  std::shared_ptr<Lanes> lanes_ = std::make_shared<Lanes>();
};

}  // namespace musterd
