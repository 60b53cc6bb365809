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
#include <utility>
#include <vector>

#include "base/time.hpp"
#include "session/process_turns.hpp"
#include "session/slice.hpp"
#include "session/turn_cost.hpp"

namespace musterd {

/// The connections with something to do, by process. Member is a shared pointer to a connection, which has a member
/// `turns` of type Rounds<Member>::TurnsPtr.
template <class Member>
class Rounds {
 public:
  using Turns = ProcessTurns<Member>;
  using TurnsPtr = std::shared_ptr<Turns>;

  static constexpr Duration length = std::chrono::milliseconds(1);  ///< of a round; its last turns may take longer

  explicit Rounds(RoundsClock clock) : clock_(std::move(clock)) {}

  /// The turns of a process: see ProcessTurns::of(). A connection keeps them for as long as it may be here.
  [[nodiscard]] TurnsPtr turns_of(std::uint32_t user, std::int32_t pid, TimePoint now) {
    return Turns::of(user, pid, known_, rounds_, now);
  }

  [[nodiscard]] bool empty() const { return busy_.empty(); }

  /// Adds a connection, which has its first turn in the next round. If this throws, as there is no memory, it was not
  /// added.
  void add(const Member& member) {
    Turns& process = *member->turns;
    process.members.push_back(member);
    if (process.members.size() > 1) return;
    try {
      busy_.push_back(&process);
    } catch (...) {
      process.members.pop_back();
      throw;
    }
  }

  void remove(const Member& member) {
    Turns& process = *member->turns;
    const auto found = std::find(process.members.begin(), process.members.end(), member);
    if (found == process.members.end()) return;
    const auto place = static_cast<std::size_t>(found - process.members.begin());
    if (place < process.next) --process.next;
    process.members.erase(found);
    if (process.members.empty()) take_out(process);
  }

  void clear() {
    next_ = end_ = short_end_ = 0;
    // The last member takes its process with it.
    for (Turns* process : std::exchange(busy_, {})) const auto members = std::exchange(process->members, {});
  }

  template <class Visit>
  void for_each(Visit visit) const {
    for (const Turns* process : busy_)
      for (const Member& member : process->members) visit(member);
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
      while (next_ < end && now < until) worked |= serve_process(*busy_[next_++], now, has_work, serve);
      return next_ >= end;
    };
    too_short_ = !serve_until(short_end_, begin + length / 2);
    next_ = std::max(next_, short_end_);
    too_short_ |= !serve_until(end_, begin + length);
    // So no process waits forever for those that cost less.
    if (Turns* const process = too_short_ ? longest_waiting(has_work) : nullptr)
      serve_process(*process, now, has_work, serve);
    return worked;
  }

 private:
  /// Takes a process out; those behind it move up.
  void take_out(const Turns& process) {
    const auto at = std::find(busy_.begin(), busy_.end(), &process);
    if (at == busy_.end()) return;
    const auto place = static_cast<std::size_t>(at - busy_.begin());
    if (place < next_) --next_;
    if (place < short_end_) --short_end_;
    if (place < end_) --end_;
    busy_.erase(at);
  }

  /// Sorts the processes: those whose turns are short come first, whatever other processes of their users do. Returns
  /// how many these are.
  std::size_t arrange(TimePoint now) {
    for (Turns* process : busy_) {
      process->cost.forget(now);
      process->user->cost.forget(now);
    }
    const auto key = [](const Turns* process) {
      const bool is_short = process->next_cost.is_short();
      return std::tuple(!is_short, is_short ? 0 : process->user->cost.sum(),
                        process->cost.sum() + process->next_cost.get(), process->served);
    };
    std::sort(busy_.begin(), busy_.end(), [&](const Turns* a, const Turns* b) { return key(a) < key(b); });
    return static_cast<std::size_t>(
        std::count_if(busy_.begin(), busy_.end(), [](const Turns* process) { return process->next_cost.is_short(); }));
  }

  /// The process that has waited longest, of those that had no turn in this round.
  template <class HasWork>
  [[nodiscard]] Turns* longest_waiting(HasWork& has_work) const {
    Turns* longest = nullptr;
    for (std::size_t i = 0; i < end_; ++i) {
      Turns* const process = busy_[i];
      if (process->served >= (longest ? longest->served : rounds_)) continue;
      const auto& members = process->members;
      if (std::any_of(members.begin(), members.end(), [&](const Member& member) { return has_work(*member); }))
        longest = process;
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

  /// Serves one process. False if it had nothing to do.
  template <class HasWork, class Serve>
  bool serve_process(Turns& process, TimePoint& now, HasWork& has_work, Serve& serve) {
    Slice slice(clock_, now);
    Member member;  // keeps its process, too
    for (std::size_t left = process.members.size(); left > 0 && !process.members.empty(); --left) {
      if (process.next >= process.members.size()) process.next = 0;
      const Member& next = process.members[process.next];
      if (!has_work(*next)) {
        ++process.next;
        continue;
      }
      if (member && !slice.lasts()) break;
      member = next;
      ++process.next;
      serve(member, slice);
      if (slice.over()) break;
    }
    if (!member) return false;
    const TimePoint ended = clock_.now();
    const auto cost = RecentCost::of_turn(time_taken(now, ended));
    process.cost.add(cost, ended);
    process.next_cost.learn(cost);
    process.user->cost.add(cost, ended);
    process.served = rounds_;
    now = ended;
    return true;
  }

  RoundsClock clock_;
  TimePoint core_asked_;      ///< when the thread was last asked for its time on a core
  Duration on_core_{};        ///< the answer
  std::vector<Turns*> busy_;  ///< processes with members
  // The processes in [next_, end_) have not had their turns in this round.
  std::size_t next_ = 0;
  std::size_t end_ = 0;
  std::size_t short_end_ = 0;  ///< processes before this index have short turns
  std::uint64_t rounds_ = 0;
  bool too_short_ = false;  ///< the last round was too short for all that had something to do
  std::shared_ptr<typename Turns::Known> known_ = std::make_shared<typename Turns::Known>();
};

}  // namespace musterd
