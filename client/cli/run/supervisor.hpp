// Decides what `muster run` does when ranks end and signals arrive. The first failure ends all ranks, unless they are
// to keep going. Ranks first get SIGTERM, later SIGKILL, always as whole process groups. Sans-IO: takes events and the
// time, and returns signals to send.
#pragma once

#include <chrono>
#include <optional>
#include <vector>

#include "ending.hpp"
#include "line_prefixer.hpp"

namespace muster::cli {

/// What the other ranks do when one fails.
enum class OnFailure {
  end_all,
  keep_going,  ///< until somebody asks `muster run` to end; after that a failure ends all
};

/// A signal to send to a rank's process group.
struct SendSignal {
  int rank = 0;
  int signal = 0;
};

class Supervisor {
 public:
  Supervisor(int ranks, std::chrono::milliseconds grace, OnFailure on_failure)
      : ranks_(static_cast<std::size_t>(ranks)), grace_(grace), on_failure_(on_failure) {}

  using Actions = std::vector<SendSignal>;
  /// The first processes of these ranks ended; one call gets all that were found at once.
  [[nodiscard]] Actions on_endings(const std::vector<RankEnding>& endings, TimePoint now);
  /// No process is left in the rank's group.
  void on_group_gone(int rank);
  /// `muster run` itself got a signal.
  [[nodiscard]] Actions on_signal(int signal, TimePoint now);
  [[nodiscard]] Actions on_time(TimePoint now);

  /// When to call on_time() next.
  [[nodiscard]] std::optional<TimePoint> deadline() const;
  /// Ranks whose first process ended, but whose group may still have other processes.
  [[nodiscard]] std::vector<int> lingering() const;
  [[nodiscard]] bool over() const;

  /// The rank that failed first, if any.
  [[nodiscard]] const std::optional<RankEnding>& failure() const { return failure_; }
  /// How many ranks still ran when the first one failed, and whether they were left alone then.
  [[nodiscard]] int ran_then() const { return ran_then_; }
  [[nodiscard]] bool went_on() const { return went_on_; }
  /// How many ranks have failed, by themselves or because they were ended.
  [[nodiscard]] int failures() const { return failures_; }
  /// Ranks that still run.
  [[nodiscard]] int running() const;
  /// Whether a failure leaves the others alone.
  [[nodiscard]] bool keeps_going() const { return on_failure_ == OnFailure::keep_going && requests_to_end_ == 0; }
  /// The last signal that was passed on; 0 if none was.
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
  OnFailure on_failure_;
  std::optional<RankEnding> failure_;
  int ran_then_ = 0;
  bool went_on_ = false;
  int failures_ = 0;
  int forwarded_ = 0;
  int requests_to_end_ = 0;
};

}  // namespace muster::cli
