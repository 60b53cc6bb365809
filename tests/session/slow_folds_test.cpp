// Ops of processes whose arrays took long to read run on lanes for a while.
#include <catch2/catch.hpp>

#include "client.hpp"
#include "session/slow_folds.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::ipc::Kind;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

Process process_of(std::uint32_t user, std::int32_t pid) { return {.user = user, .pid = pid, .client = {}}; }

}  // namespace

TEST_CASE("a fold holds up the thread if it waits or works long, not if others have the core") {
  TimePoint now{seconds(1000)};
  ThreadUsage usage;
  int asked = 0;
  FoldWatch folds({[&] { return now; }, [&] { return ++asked, usage; }});
  const auto short_one = [&] { now += milliseconds(1); };
  const auto crowded_out = [&] { now += milliseconds(30); };
  const auto waits = [&] { now += milliseconds(30), ++usage.waits; };
  const auto works = [&] { now += milliseconds(30), usage.on_core += milliseconds(30); };
  for (int i = 0; i < 10; ++i) CHECK(folds.held_up(short_one) == Duration());
  CHECK(asked == 0);
  CHECK(folds.held_up(waits) == Duration());  // nothing was measured closely yet
  CHECK(folds.held_up(waits) == milliseconds(30));
  CHECK(folds.held_up(works) == milliseconds(30));
  for (int i = 0; i < 10; ++i) CHECK(folds.held_up(crowded_out) == Duration());
  CHECK(folds.held_up(short_one) == Duration());
  CHECK(folds.held_up(waits) == milliseconds(30));
  now += FoldWatch::doubts_last + milliseconds(1);
  asked = 0;
  CHECK(folds.held_up(short_one) == Duration());
  CHECK(asked == 0);
}

TEST_CASE("a process is held off for a while") {
  SlowFolds slow;
  TimePoint now{seconds(1000)};
  CHECK(slow.empty());
  slow.mark(process_of(1, 1), now);
  CHECK(slow.holds_off(process_of(1, 1)));
  CHECK_FALSE(slow.holds_off(process_of(1, 2)));
  now += SlowFolds::pause / 2;
  slow.mark(process_of(1, 1), now);
  now += SlowFolds::pause / 2;
  slow.forget(now);
  CHECK(slow.holds_off(process_of(1, 1)));
  slow.forget(now + SlowFolds::pause);
  CHECK(slow.empty());
}

TEST_CASE("a user with many slow processes is held off as a whole, and the records are bounded") {
  SlowFolds slow;
  const TimePoint now{seconds(1000)};
  for (int pid = 1; pid <= 3; ++pid) slow.mark(process_of(1, pid), now);
  CHECK_FALSE(slow.holds_off(process_of(1, 99)));
  for (int pid = 4; pid <= 1000; ++pid) slow.mark(process_of(1, pid), now);
  CHECK(slow.holds_off(process_of(1, 99)));
  CHECK_FALSE(slow.holds_off(process_of(2, 99)));
}

TEST_CASE("after a fold that took long the small ops of its process run on lanes", "[at-once]") {
  TwoRanks ranks;
  auto& [world, first, second] = ranks;
  TestClient other(world, 3);
  other.join("alone", 0, 1);
  std::uint64_t made = 0;
  const auto seal = [&](TestClient& client) {
    return client.seal(client.lease(4096), 0, {1.0F, static_cast<float>(++made)});
  };
  const auto sum_is_on_lanes = [&, a = seal(first), b = seal(second)] {
    const auto before = world.outside.jobs.turns_of.size();
    const auto work = first.contribute(Kind::allreduce, {a});
    second.contribute(Kind::allreduce, {b});
    REQUIRE(first.done(work));
    return world.outside.jobs.turns_of.size() > before;
  };
  const auto other_is_on_lanes = [&, a = seal(other)] {
    const auto before = world.outside.jobs.turns_of.size();
    REQUIRE(other.done(other.contribute(Kind::allreduce, {a})));
    return world.outside.jobs.turns_of.size() > before;
  };
  CHECK_FALSE(sum_is_on_lanes());
  world.outside.jobs.at_once_takes = milliseconds(3);
  CHECK_FALSE(sum_is_on_lanes());
  world.outside.jobs.at_once_takes = {};
  CHECK(sum_is_on_lanes());
  CHECK(sum_is_on_lanes());
  CHECK_FALSE(other_is_on_lanes());
  // An op that reads nothing stays on the thread.
  const auto before = world.outside.jobs.turns_of.size();
  const auto barrier = first.contribute(Kind::barrier);
  second.contribute(Kind::barrier);
  CHECK(first.done(barrier));
  CHECK(world.outside.jobs.turns_of.size() == before);
  world.advance(SlowFolds::pause);
  CHECK_FALSE(sum_is_on_lanes());
}
