// Decides what `muster run` does when ranks end and signals come: the first failure ends all, asked first (SIGTERM),
// then made (SIGKILL), whole process groups at a time. Sans-IO: events and the time in, signals to send out.
#pragma once

#include <chrono>
#include <optional>
#include <vector>

#include "line_prefixer.hpp"

namespace muster::cli {

/// How a process ended.
struct Ending {
  int exit_code = 0;
  int signal = 0;  ///< not 0: killed by it
  [[nodiscard]] bool failed() const { return exit_code != 0 || signal != 0; }
  /// As shells say it: 128 + signal for a killed process.
  [[nodiscard]] int status() const { return signal != 0 ? 128 + signal : exit_code; }
};

struct RankEnding {
  int rank = 0;
  Ending ending;
};

/// A signal to send to a rank's process group.
struct SendSignal {
  int rank = 0;
  int signal = 0;
};

class Supervisor {
 public:
  Supervisor(int ranks, std::chrono::milliseconds grace) : ranks_(static_cast<std::size_t>(ranks)), grace_(grace) {}

  using Actions = std::vector<SendSignal>;
  /// Ranks whose first process ended, as many as were found at once.
  [[nodiscard]] Actions on_endings(const std::vector<RankEnding>& endings, TimePoint now);
  /// No process is left in the rank's group.
  void on_group_gone(int rank);
  /// A signal that `muster run` got itself.
  [[nodiscard]] Actions on_signal(int signal, TimePoint now);
  [[nodiscard]] Actions on_time(TimePoint now);

  /// When on_time() is due.
  [[nodiscard]] std::optional<TimePoint> deadline() const;
  /// Ranks whose first process ended, but whose group may still hold others.
  [[nodiscard]] std::vector<int> lingering() const;
  [[nodiscard]] bool over() const;

  /// The rank that failed first, if any.
  [[nodiscard]] const std::optional<RankEnding>& failure() const { return failure_; }
  /// Ranks that still ran when the first one failed.
  [[nodiscard]] int ended_with_it() const { return ended_with_it_; }
  /// The last signal that was passed on; 0: none.
  [[nodiscard]] int forwarded() const { return forwarded_; }

 private:
  enum class State { running, lingering, gone };
  struct Rank {
    State state = State::running;
    std::optional<TimePoint> kill_at;
  };
  void ask_to_end(int rank, TimePoint now, Actions& actions);
  void end_all(TimePoint now, Actions& actions);

  std::vector<Rank> ranks_;
  std::chrono::milliseconds grace_;
  std::optional<RankEnding> failure_;
  int ended_with_it_ = 0;
  int forwarded_ = 0;
  int requests_to_end_ = 0;
};

}  // namespace muster::cli
