// Which clients make the kernel work too long.
#include <catch2/catch.hpp>

#include "session/effort.hpp"

using namespace musterd;
using std::chrono::milliseconds;

namespace {

/// A clock of the test.
struct World {
  TimePoint now{std::chrono::seconds(1000)};
  Duration on_core{};
  int asked = 0;  ///< for the time on a core
  EffortMeter meter{RoundsClock{[this] { return now; }, [this] { return ++asked, on_core; }}};
  KernelEffort effort;
  void work(Duration duration) { now += duration, on_core += duration; }
  void be_away(Duration duration) { now += duration; }
};

}  // namespace

TEST_CASE("a client for which a call works long is found at once") {
  World world;
  CHECK(world.meter.measure(world.effort, [&] { return world.work(milliseconds(2)), 7; }) == 7);
  CHECK_FALSE(world.effort.too_much);
  CHECK(world.meter.measure(world.effort, [&] { return world.work(milliseconds(3)), 8; }) == 8);
  CHECK(world.effort.too_much);
  static_cast<void>(world.meter.measure(world.effort, [] { return 0; }));
  CHECK(world.effort.too_much);
}

TEST_CASE("a call that others kept from the core is no effort") {
  World world;
  static_cast<void>(world.meter.measure(world.effort, [&] { return world.be_away(milliseconds(30)), 0; }));
  CHECK_FALSE(world.effort.too_much);
  for (int i = 0; i < 10; ++i) world.meter.watch(world.effort, [&] { world.be_away(milliseconds(30)); });
  CHECK_FALSE(world.effort.too_much);
}

TEST_CASE("of a frequent call the second long one is found, and short ones ask for no time on a core") {
  World world;
  for (int i = 0; i < 10; ++i) world.meter.watch(world.effort, [&] { world.work(milliseconds(1)); });
  CHECK(world.asked == 0);
  world.meter.watch(world.effort, [&] { world.work(milliseconds(200)); });
  CHECK_FALSE(world.effort.too_much);
  world.meter.watch(world.effort, [&] { world.work(milliseconds(200)); });
  CHECK(world.effort.too_much);
}

TEST_CASE("calls of a batch are measured once it seemed long as a whole") {
  World world;
  KernelEffort other;
  const auto batch = [&](Duration each) {
    const TimePoint began = world.meter.begin_batch();
    world.meter.in_batch(world.effort, [&] { world.work(each); });
    world.meter.in_batch(other, [&] { world.work(milliseconds(0)); });
    if (world.meter.seems_long(began)) world.effort.suspected = other.suspected = true;
  };
  for (int i = 0; i < 10; ++i) batch(milliseconds(1));
  CHECK(world.asked == 0);
  batch(milliseconds(200));
  CHECK_FALSE(world.effort.too_much);
  batch(milliseconds(200));
  CHECK(world.effort.too_much);
  CHECK_FALSE(other.too_much);
}
