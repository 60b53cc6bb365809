// The second request to end (Ctrl-C twice) ends ranks that ignore the first: SIGTERM, and SIGKILL after the grace
// period. The third kills at once.
#include "supervisor.hpp"

#include <algorithm>
#include <csignal>

namespace muster::cli {

namespace {

bool asks_to_end(int signal) { return signal == SIGINT || signal == SIGTERM || signal == SIGHUP || signal == SIGQUIT; }

/// If several failures are found at once, picks a killed rank first. A rank that exited by itself often did so because
/// it lost the killed one.
const RankEnding* first_failure(const std::vector<RankEnding>& endings) {
  const RankEnding* found = nullptr;
  for (const auto& one : endings) {
    if (!one.ending.failed()) continue;
    if (found == nullptr || (found->ending.signal == 0 && one.ending.signal != 0)) found = &one;
  }
  return found;
}

}  // namespace

void Supervisor::ask_to_end(int rank, TimePoint now, Actions& actions) {
  auto& one = ranks_[static_cast<std::size_t>(rank)];
  if (one.state == State::gone || one.kill_at) return;
  actions.push_back({rank, SIGTERM});
  actions.push_back({rank, SIGCONT});  // a stopped process handles SIGTERM only after SIGCONT
  one.kill_at = now + grace_;
}

void Supervisor::end_all(TimePoint now, Actions& actions) {
  for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) ask_to_end(rank, now, actions);
}

Supervisor::Actions Supervisor::on_endings(const std::vector<RankEnding>& endings, TimePoint now) {
  Actions actions;
  for (const auto& one : endings) {
    ranks_[static_cast<std::size_t>(one.rank)].state = State::lingering;
    ask_to_end(one.rank, now, actions);  // processes that it left behind end with it
  }
  const RankEnding* failed = first_failure(endings);
  if (failed == nullptr) return actions;
  failures_ += static_cast<int>(
      std::count_if(endings.begin(), endings.end(), [](const RankEnding& one) { return one.ending.failed(); }));
  if (!failure_) {
    failure_ = *failed;
    ran_then_ = running();
    went_on_ = keeps_going();
  }
  if (!keeps_going()) end_all(now, actions);
  return actions;
}

int Supervisor::running() const {
  return static_cast<int>(
      std::count_if(ranks_.begin(), ranks_.end(), [](const Rank& one) { return one.state == State::running; }));
}

void Supervisor::on_group_gone(int rank) {
  auto& one = ranks_[static_cast<std::size_t>(rank)];
  one.state = State::gone;
  one.kill_at.reset();
}

Supervisor::Actions Supervisor::on_signal(int signal, TimePoint now) {
  Actions actions;
  if (asks_to_end(signal)) ++requests_to_end_;
  if (asks_to_end(signal) && requests_to_end_ == 2) {
    end_all(now, actions);
    return actions;
  }
  const int passed_on = requests_to_end_ > 2 && asks_to_end(signal) ? SIGKILL : signal;
  if (asks_to_end(signal)) forwarded_ = passed_on;
  for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank)
    if (ranks_[static_cast<std::size_t>(rank)].state != State::gone) actions.push_back({rank, passed_on});
  return actions;
}

Supervisor::Actions Supervisor::on_time(TimePoint now) {
  Actions actions;
  for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) {
    auto& one = ranks_[static_cast<std::size_t>(rank)];
    if (one.state == State::gone || !one.kill_at || *one.kill_at > now) continue;
    actions.push_back({rank, SIGKILL});
    one.kill_at = now + grace_;  // kills again if the group is still there then
  }
  return actions;
}

std::optional<TimePoint> Supervisor::deadline() const {
  std::optional<TimePoint> first;
  for (const auto& one : ranks_)
    if (one.state != State::gone && one.kill_at && (!first || *one.kill_at < *first)) first = one.kill_at;
  return first;
}

std::vector<int> Supervisor::lingering() const {
  std::vector<int> found;
  for (std::size_t rank = 0; rank < ranks_.size(); ++rank)
    if (ranks_[rank].state == State::lingering) found.push_back(static_cast<int>(rank));
  return found;
}

bool Supervisor::over() const {
  return std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& one) { return one.state == State::gone; });
}

}  // namespace muster::cli
