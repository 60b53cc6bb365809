// Which clients make the kernel work too long.
#include <catch2/catch.hpp>

#include "session/effort.hpp"

using namespace musterd;
using std::chrono::milliseconds;
using Of = KernelEffort::Of;

namespace {

/// A clock that the test moves.
struct World {
  TimePoint now{std::chrono::seconds(1000)};
  Duration on_core{};
  int asked = 0;  ///< how often the time on a core was asked for
  EffortMeter meter{RoundsClock{[this] { return now; }, [this] { return ++asked, on_core; }}};
  KernelEffort effort;
  void work(Duration duration) { now += duration, on_core += duration; }
  void be_away(Duration duration) { now += duration; }
  /// Takes and returns milliseconds.
  long send(milliseconds duration) {
    return meter.measure(effort, Of::sending, [&] { return work(duration), duration.count(); });
  }
};

}  // namespace

TEST_CASE("a client whose calls are long again and again is found") {
  World world;
  for (int i = 0; i < 7; ++i) {
    CHECK(world.send(milliseconds(3)) == 3);
    CHECK_FALSE(world.effort.too_much);
  }
  static_cast<void>(world.send(milliseconds(3)));
  CHECK(world.effort.too_much);
  for (int i = 0; i < 100; ++i) static_cast<void>(world.send(milliseconds(0)));
  CHECK(world.effort.too_much);
}

TEST_CASE("a client whose one call holds everybody up is found at once") {
  World world;
  CHECK(world.send(milliseconds(50)) == 50);
  CHECK_FALSE(world.effort.too_much);
  CHECK(world.send(milliseconds(3)) == 3);  // the two calls together
  CHECK(world.effort.too_much);
}

TEST_CASE("a client is not cut off if some of its calls do work of others") {
  World world;
  for (int i = 0; i < 1000; ++i) {
    static_cast<void>(world.send(milliseconds(i % 3 == 0 ? 4 : 0)));
    static_cast<void>(world.send(milliseconds(2)));
  }
  CHECK_FALSE(world.effort.too_much);
}

TEST_CASE("long calls of one kind are judged apart from short calls of another") {
  World world;
  for (int i = 0; i < 7; ++i) {
    static_cast<void>(world.send(milliseconds(6)));
    for (int j = 0; j < 100; ++j)
      world.meter.measure(world.effort, Of::receiving, [&] { return world.work(milliseconds(0)), 0; });
    CHECK_FALSE(world.effort.too_much);
  }
  static_cast<void>(world.send(milliseconds(6)));
  CHECK(world.effort.too_much);
}

TEST_CASE("time in which others had the core does not count as effort") {
  World world;
  for (int i = 0; i < 100; ++i)
    world.meter.measure(world.effort, Of::sending, [&] { return world.be_away(milliseconds(300)), 0; });
  for (int i = 0; i < 100; ++i)
    world.meter.watch(world.effort, Of::doorbell, [&] { world.be_away(milliseconds(300)); });
  CHECK_FALSE(world.effort.too_much);
}

TEST_CASE("frequent calls are measured after a long one, and short ones don't ask for the time on a core") {
  World world;
  const auto ring = [&](Duration duration) {
    world.meter.watch(world.effort, Of::doorbell, [&] { world.work(duration); });
  };
  for (int i = 0; i < 10; ++i) ring(milliseconds(1));
  CHECK(world.asked == 0);
  ring(milliseconds(200));
  CHECK_FALSE(world.effort.too_much);
  ring(milliseconds(200));
  CHECK(world.effort.too_much);
}

TEST_CASE("after one long call, frequent calls are soon trusted again") {
  World world;
  const auto ring = [&](Duration duration) {
    world.meter.watch(world.effort, Of::doorbell, [&] { world.work(duration); });
  };
  for (int i = 0; i < 2; ++i) ring(milliseconds(4));
  for (int i = 0; i < 16; ++i) ring(milliseconds(0));
  const int asked = world.asked;
  CHECK(asked > 0);
  for (int i = 0; i < 10; ++i) ring(milliseconds(0));
  CHECK(world.asked == asked);
  CHECK_FALSE(world.effort.too_much);
}

TEST_CASE("calls of a batch are measured after the batch seemed long as a whole") {
  World world;
  KernelEffort other;
  const auto batch = [&](Duration each) {
    const TimePoint began = world.meter.begin_batch();
    world.meter.in_batch(world.effort, Of::waking, [&] { world.work(each); });
    world.meter.in_batch(other, Of::waking, [&] { world.work(milliseconds(0)); });
    if (world.meter.seems_long(began))
      for (auto* effort : {&world.effort, &other}) effort->of(Of::waking).suspected = true;
  };
  for (int i = 0; i < 10; ++i) batch(milliseconds(1));
  CHECK(world.asked == 0);
  batch(milliseconds(200));
  CHECK_FALSE(world.effort.too_much);
  batch(milliseconds(200));
  CHECK(world.effort.too_much);
  CHECK_FALSE(other.too_much);
}
