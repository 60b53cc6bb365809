// The communicators of NCCL between the workers of several GPUs, as the control thread sees them: who makes one, who is
// in it, when it goes. One is made for each set of GPUs that a user's op needs, and serves all groups of that user.
// Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <span>
#include <vector>

#include <muster/result.hpp>

#include "base/time.hpp"
#include "gpu/control/failed_joins.hpp"
#include "gpu/control/gpu.hpp"

namespace musterd::gpu {

struct CommunicatorSettings {
  Duration make_timeout = std::chrono::seconds(30);      ///< while a job waits for it
  Duration unwanted_timeout = std::chrono::seconds(10);  ///< if none does any more
  Duration end_timeout = std::chrono::seconds(5);        ///< to leave one in order; and to abort it
  // Each takes memory of its GPUs.
  /// Those that are not waiting. A user gets half of what others leave; a job that needs another one waits.
  std::size_t made_max = 16;
  std::size_t idle_max = 4;      ///< those that no job uses
  std::size_t waiting_max = 64;  ///< those of one user that wait to be made
  FailedJoinsSettings failed;
};

class Communicators final : public CommunicatorEvents {
 public:
  /// Called in events of workers and in tick(); `broken` also within give_up().
  struct Events {
    std::function<void()> ready;                             ///< another one is
    std::function<void(CommunicatorId, const Why&)> broken;  ///< must not throw
  };
  Communicators(CommunicatorSettings settings, Events events);

  /// Why there is none, and nobody tries to make one now; null if there may be one.
  [[nodiscard]] Why unavailable(const Team& team) const;
  /// The communicator for one more job. It may have to be made first.
  [[nodiscard]] CommunicatorId want(const Team& team);
  /// One job less needs it.
  void done(CommunicatorId id) noexcept;
  [[nodiscard]] bool is_ready(CommunicatorId id) const;
  /// Its jobs fail, and nobody uses it any more. Its members abort it; the workers of those that can't are ended.
  void give_up(CommunicatorId id, const Why& why) noexcept;

  void tick(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;
  /// All that some worker may still be in.
  [[nodiscard]] std::size_t count() const { return waiting_.size() + live_.size() + ending_.size(); }

  // CommunicatorEvents. What is said of one that is not there any more, or not in that state, changes nothing.
  void named(const Gpu& gpu, CommunicatorId id, std::span<const std::uint8_t> unique_id) override;
  void joined(const Gpu& gpu, CommunicatorId id) override;
  void broken(const Gpu& gpu, CommunicatorId id, const muster::Error& why) override;
  void left(const Gpu& gpu, CommunicatorId id) override;
  void worker_gone(const Gpu& gpu, const muster::Error& why) noexcept override;

 private:
  enum class State : std::uint8_t {
    waiting,   ///< until there is room for it, and earlier ones of these GPUs have been aborted
    naming,    ///< the first member makes the unique id
    joining,   ///< all members join
    ready,     ///< jobs may use it
    leaving,   ///< all members leave it in order
    aborting,  ///< all members abort it
  };
  struct Communicator {
    CommunicatorId id = 0;
    Team team;
    State state = State::waiting;
    std::uint32_t awaited = 0;       ///< a bit for each member that has not answered yet
    std::size_t jobs = 0;            ///< that wait for it, or use it
    std::uint64_t last_used = 0;     ///< larger: later
    std::optional<TimePoint> since;  ///< when it began to be made, or to end; set by the next tick
    [[nodiscard]] const GpuSet& members() const { return team.gpus; }
    [[nodiscard]] bool has(const Gpu& gpu) const;
    [[nodiscard]] bool is_idle() const { return state == State::ready && jobs == 0; }
    [[nodiscard]] bool is_being_made() const { return state == State::naming || state == State::joining; }
  };
  using List = std::list<Communicator>;
  /// Whose failure it is that one could not be made. Those of NCCL and of its workers lead to pauses.
  enum class Fault : std::uint8_t { nccl, ours };

  [[nodiscard]] static List::iterator find(List& list, CommunicatorId id);
  [[nodiscard]] Communicator* find_usable(CommunicatorId id);
  [[nodiscard]] bool has_room(const Communicator& wanted) const;
  void make(List::iterator made);
  void join_all(List::iterator made, std::span<const std::uint8_t> unique_id);
  void end(List::iterator over, Gpu::Leaving how) noexcept;
  void give_up(List::iterator broken, const Why& why, Fault fault) noexcept;
  static bool answered(Communicator& asked, const Gpu& gpu);
  void forget_answered() noexcept;
  void tick_waiting();
  void tick_live(TimePoint now);
  void give_up_late(List::iterator late, TimePoint now);
  void tick_ending(TimePoint now);
  struct Counts {
    std::size_t of_user = 0;
    std::size_t of_others = 0;
  };
  [[nodiscard]] bool is_in_share(const Counts& made) const;
  [[nodiscard]] Counts made_before(const Communicator& wanted) const;
  [[nodiscard]] std::size_t idle(std::optional<UserId> of = {}) const;
  [[nodiscard]] List::iterator first_idle(std::optional<UserId> of = {});
  void release_idle() noexcept;
  void make_room() noexcept;
  [[nodiscard]] std::optional<TimePoint> due(const Communicator& one) const;
  [[nodiscard]] static muster::Error too_late(const Communicator& made, const GpuSet& missing, Duration waited);

  CommunicatorSettings settings_;
  Events events_;
  Why no_memory_;
  FailedJoins failed_;
  CommunicatorId last_id_ = 0;
  std::uint64_t uses_ = 0;
  List waiting_;
  List live_;    ///< made, or being made; with those that are ending no more than `made_max`
  List ending_;  ///< leaving or aborting
};

}  // namespace musterd::gpu
