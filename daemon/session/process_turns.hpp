// The turns that one process has on the control thread: its connections, which share them, and what its turns have cost
// lately. See Rounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/time.hpp"
#include "session/turn_cost.hpp"

namespace musterd {

template <class Member>
struct ProcessTurns {
  struct User {
    RecentCost cost;  ///< of all its processes, ended ones too, while one of them lives
    std::size_t processes = 0;
  };
  /// All that exist.
  struct Known {
    std::unordered_map<std::uint64_t, std::weak_ptr<ProcessTurns>> processes;  ///< by user and process
    std::unordered_map<std::uint32_t, User> users;
  };

  ProcessTurns(std::uint32_t of_user, std::int32_t process, std::shared_ptr<Known> all)
      : user_id(of_user), pid(process), known(std::move(all)), user(&known->users[user_id]) {
    ++user->processes;
  }
  ProcessTurns(const ProcessTurns&) = delete;
  ProcessTurns& operator=(const ProcessTurns&) = delete;
  ~ProcessTurns() {
    if (pid != 0) known->processes.erase(key_of(user_id, pid));
    if (--user->processes == 0) known->users.erase(user_id);
  }

  /// Those of a process. Pid 0 is a process that the daemon can't see; each call for it makes new ones. A newcomer
  /// begins with the average cost of its user's processes, so it gains nothing by connecting anew.
  [[nodiscard]] static std::shared_ptr<ProcessTurns> of(std::uint32_t user, std::int32_t pid,
                                                        const std::shared_ptr<Known>& known, std::uint64_t round,
                                                        TimePoint now) {
    const auto key = key_of(user, pid);
    if (const auto found = known->processes.find(key); found != known->processes.end()) return found->second.lock();
    auto made = std::make_shared<ProcessTurns>(user, pid, known);
    if (pid != 0) known->processes.emplace(key, made);
    made->user->cost.forget(now);
    made->served = round;
    made->cost.add(made->user->cost.sum() / made->user->processes, now);
    return made;
  }
  [[nodiscard]] static std::uint64_t key_of(std::uint32_t user, std::int32_t pid) {
    return std::uint64_t{user} << 32 | static_cast<std::uint32_t>(pid);
  }

  std::uint32_t user_id;
  std::int32_t pid;
  std::shared_ptr<Known> known;  ///< this may outlive the rounds
  User* user;
  RecentCost cost;
  ExpectedCost next_cost;
  std::uint64_t served = 0;     ///< the round in which it had its last turn, or came
  std::vector<Member> members;  ///< the connections with something to do
  std::size_t next = 0;         ///< whose turn it is
};

}  // namespace musterd
