// How long a process keeps the owners of what it has left in place.
#include <catch2/catch.hpp>

#include <memory>

#include "memory/left_in_place.hpp"

namespace {

using muster::detail::LeftInPlace;
using muster::detail::OrderedMutex;
using muster::ipc::SegmentId;

struct Left {
  OrderedMutex mutex{muster::detail::Rank::memory};
  LeftInPlace left{mutex};
  int ended = 0;

  LeftInPlace::Owner owner() {
    return {&mutex, [this](const void*) {
              // It may call back: nothing is locked here.
              left.over({77});
              ++ended;
            }};
  }
};

}  // namespace

TEST_CASE("owners are kept until their segment is over, each with its own") {
  Left world;
  world.left.add({1}, nullptr, world.owner());
  world.left.add_owner({1}, world.owner());
  world.left.add({2}, nullptr, world.owner());
  world.left.over({3});
  CHECK(world.ended == 0);
  world.left.over({1});
  CHECK(world.ended == 2);
  world.left.over({1});
  CHECK(world.ended == 2);
  world.left.over({2});
  CHECK(world.ended == 3);
}

TEST_CASE("when the connection ends, all owners are let go of, also those of which nobody heard more") {
  Left world;
  world.left.add({1}, nullptr, world.owner());
  world.left.add({}, nullptr, world.owner());
  world.left.add({}, nullptr, world.owner());
  world.left.end();
  CHECK(world.ended == 3);
  world.left.end();
  CHECK(world.ended == 3);
}

TEST_CASE("an owner of a segment that is over already ends at once") {
  Left world;
  world.left.add_owner({1}, world.owner());
  CHECK(world.ended == 1);
}

TEST_CASE("a forked child lets go of nothing") {
  Left world;
  world.left.add({1}, nullptr, world.owner());
  world.left.disown();
  world.left.over({1});
  world.left.end();
  CHECK(world.ended == 0);
}
