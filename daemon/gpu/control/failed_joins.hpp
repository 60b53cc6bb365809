// Teams whose GPUs NCCL could not join lately. After some failures in a row nobody tries again before a pause is over,
// as each attempt costs seconds, and may cost a worker. Pure.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include <muster/result.hpp>

#include "base/time.hpp"
#include "gpu/control/gpu.hpp"
#include "memory/ledger.hpp"

namespace musterd::gpu {

/// Why something failed, for many at once: to hand it on takes no memory.
using Why = std::shared_ptr<const muster::Error>;
/// `no_memory` if there is none for the error.
[[nodiscard]] Why why_of(const muster::Error& error, const Why& no_memory) noexcept;

using GpuSet = std::vector<Gpu*>;  ///< in the order of their ranks

/// Who works together: the ops of one user over these GPUs.
struct Team {
  UserId user = 0;
  GpuSet gpus;
  bool operator==(const Team&) const = default;
};

struct FailedJoinsSettings {
  std::size_t tries = 3;  ///< the failures in a row after which there is a pause
  Duration pause_min = std::chrono::seconds(1);
  Duration pause_max = std::chrono::minutes(1);
  // The team that failed first is forgotten first.
  std::size_t known_of_user_max = 64;
  std::size_t known_max = 1024;
};

class FailedJoins {
 public:
  explicit FailedJoins(FailedJoinsSettings settings = {}) : settings_(settings) {}

  /// Returns what those are told who have waited: `why`, and how often in a row it has happened if that is often.
  [[nodiscard]] Why failed(const Team& team, const Why& why) noexcept;
  void joined(const Team& team) noexcept;
  [[nodiscard]] std::size_t in_a_row(const Team& team) const;
  /// Why nobody tries now; null if somebody may.
  [[nodiscard]] Why pausing(const Team& team) const;

  void tick(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;

 private:
  struct Failed {
    Team team;
    std::size_t in_a_row = 0;
    Duration pause{};
    Why why;                         ///< while there is a pause
    std::optional<TimePoint> until;  ///< set by the next tick
  };
  [[nodiscard]] const Failed* find(const Team& team) const;
  [[nodiscard]] Failed& known(const Team& team);

  FailedJoinsSettings settings_;
  std::list<Failed> failed_;
};

}  // namespace musterd::gpu
