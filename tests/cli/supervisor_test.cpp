// What muster run does when ranks end and signals arrive, tested without any process.
#include <catch2/catch.hpp>

#include <csignal>

#include "run/supervisor.hpp"

using namespace std::chrono_literals;
using muster::cli::Ending;
using muster::cli::OnFailure;
using muster::cli::Supervisor;
using muster::cli::TimePoint;

namespace {

const TimePoint start{1h};

/// The ranks that get `signal`, in order.
std::vector<int> who_gets(const Supervisor::Actions& actions, int signal) {
  std::vector<int> ranks;
  for (const auto& action : actions)
    if (action.signal == signal) ranks.push_back(action.rank);
  return ranks;
}

using Ranks = std::vector<int>;

}  // namespace

TEST_CASE("a rank that ends well ends only what it left behind") {
  Supervisor supervisor(2, 5s, OnFailure::end_all);
  CHECK(who_gets(supervisor.on_endings({{0, Ending{}}}, start), SIGTERM) == Ranks{0});
  CHECK(supervisor.lingering() == Ranks{0});
  supervisor.on_group_gone(0);
  CHECK_FALSE(supervisor.over());
  CHECK_FALSE(supervisor.deadline());
  static_cast<void>(supervisor.on_endings({{1, Ending{}}}, start));
  supervisor.on_group_gone(1);
  CHECK(supervisor.over());
  CHECK_FALSE(supervisor.failure());
}

TEST_CASE("the first failure ends all: SIGTERM first, SIGKILL after the grace period") {
  Supervisor supervisor(3, 5s, OnFailure::end_all);
  CHECK(who_gets(supervisor.on_endings({{1, Ending{7, 0}}}, start), SIGTERM) == Ranks{1, 0, 2});
  CHECK(supervisor.failure()->rank == 1);
  CHECK(supervisor.failure()->ending.status() == 7);
  CHECK(supervisor.ran_then() == 2);
  supervisor.on_group_gone(1);

  CHECK(who_gets(supervisor.on_endings({{0, Ending{0, SIGTERM}}}, start + 1s), SIGTERM).empty());
  supervisor.on_group_gone(0);
  CHECK(supervisor.failure()->rank == 1);

  CHECK(supervisor.deadline() == start + 5s);
  CHECK(supervisor.on_time(start + 4s).empty());
  CHECK(who_gets(supervisor.on_time(start + 5s), SIGKILL) == Ranks{2});
}

TEST_CASE("if several failures are found at once, the killed rank counts as the cause") {
  Supervisor supervisor(3, 5s, OnFailure::end_all);
  static_cast<void>(supervisor.on_endings({{0, Ending{1, 0}}, {2, Ending{0, SIGKILL}}}, start));
  CHECK(supervisor.failure()->rank == 2);
  CHECK(supervisor.failure()->ending.status() == 128 + SIGKILL);
  CHECK(supervisor.ran_then() == 1);
}

TEST_CASE("with --keep-going ranks go on after failures of others, and the first failure counts") {
  Supervisor supervisor(3, 5s, OnFailure::keep_going);
  CHECK(who_gets(supervisor.on_endings({{1, Ending{7, 0}}}, start), SIGTERM) == Ranks{1});
  CHECK(supervisor.went_on());
  CHECK(supervisor.ran_then() == 2);
  supervisor.on_group_gone(1);
  CHECK(who_gets(supervisor.on_endings({{2, Ending{9, 0}}}, start), SIGTERM) == Ranks{2});
  supervisor.on_group_gone(2);
  CHECK_FALSE(supervisor.over());
  CHECK_FALSE(supervisor.deadline());
  static_cast<void>(supervisor.on_endings({{0, Ending{}}}, start));
  supervisor.on_group_gone(0);
  CHECK(supervisor.over());
  CHECK(supervisor.failure()->ending.status() == 7);
  CHECK(supervisor.failures() == 2);
}

TEST_CASE("a request to end also ends ranks that keep going") {
  Supervisor supervisor(3, 5s, OnFailure::keep_going);
  static_cast<void>(supervisor.on_endings({{1, Ending{7, 0}}}, start));
  supervisor.on_group_gone(1);
  CHECK(who_gets(supervisor.on_signal(SIGINT, start), SIGINT) == Ranks{0, 2});
  CHECK_FALSE(supervisor.keeps_going());
  CHECK(who_gets(supervisor.on_endings({{0, Ending{0, SIGINT}}}, start), SIGTERM) == Ranks{0, 2});
  CHECK(supervisor.failure()->rank == 1);
}

TEST_CASE("signals are passed on, the second request to end insists, the third kills") {
  Supervisor supervisor(2, 5s, OnFailure::end_all);
  CHECK(who_gets(supervisor.on_signal(SIGUSR1, start), SIGUSR1) == Ranks{0, 1});
  CHECK(supervisor.forwarded() == 0);
  CHECK(who_gets(supervisor.on_signal(SIGINT, start), SIGINT) == Ranks{0, 1});
  CHECK(supervisor.forwarded() == SIGINT);
  CHECK_FALSE(supervisor.deadline());
  CHECK(who_gets(supervisor.on_signal(SIGINT, start), SIGTERM) == Ranks{0, 1});
  CHECK(supervisor.deadline() == start + 5s);
  CHECK(who_gets(supervisor.on_signal(SIGINT, start), SIGKILL) == Ranks{0, 1});
}

TEST_CASE("a group that is gone gets no signal: its number may be another's") {
  Supervisor supervisor(2, 5s, OnFailure::end_all);
  static_cast<void>(supervisor.on_endings({{0, Ending{}}}, start));
  supervisor.on_group_gone(0);
  CHECK(who_gets(supervisor.on_signal(SIGTERM, start), SIGTERM) == Ranks{1});
  CHECK(who_gets(supervisor.on_signal(SIGTERM, start), SIGTERM) == Ranks{1});
  CHECK(who_gets(supervisor.on_time(start + 1h), SIGKILL) == Ranks{1});
}
