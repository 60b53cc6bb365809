// Ops that wait for memory or are with a lane, and that nobody is left to be told of.
#include <catch2/catch.hpp>

#include <limits>

#include "node_parts.hpp"
#include "session/long_ops.hpp"

using namespace musterd;
using namespace musterd::testing;

namespace {

constexpr std::size_t plenty = std::numeric_limits<std::size_t>::max();

struct Long : NodeParts {
  LongOps ops{clients, works};
  const RunningOp* next(std::size_t left = plenty) { return ops.next_unwanted(left); }
};

}  // namespace

TEST_CASE("an op is unwanted once the last client of its ranks has gone") {
  Long world;
  RunningOp& op = world.op(3);
  SECTION("while it waits for memory") { world.ops.add_waiting(op); }
  SECTION("while a lane does its work") { world.ops.add_with_lane(op); }
  CHECK_FALSE(world.ops.may_have_unwanted());
  world.clients.erase({1});
  world.clients.erase({3});
  CHECK(world.ops.may_have_unwanted());
  CHECK(world.next() == nullptr);
  CHECK_FALSE(world.ops.may_have_unwanted());  // it was looked at
  world.clients.erase({2});
  CHECK(world.next() == &op);
}

TEST_CASE("an op that is not long any more is not looked at") {
  Long world;
  RunningOp& op = world.op(1);
  world.ops.add_waiting(op);
  op.WaitingHook::unlink();
  world.clients.erase({1});
  CHECK_FALSE(world.ops.may_have_unwanted());
  CHECK(world.next() == nullptr);
}

TEST_CASE("many ops are looked at a few in each turn, and each is found") {
  Long world;
  constexpr int count = 100;
  for (int i = 0; i < count; ++i) {
    RunningOp& op = world.op(1 + i % 2);
    if (i % 3 == 0) world.ops.add_with_lane(op);
    else world.ops.add_waiting(op);
  }
  world.clients.erase({1});
  int found = 0;
  int turns = 0;
  for (; world.ops.may_have_unwanted(); ++turns) {
    for (std::size_t left = 8; const RunningOp* const op = world.ops.next_unwanted(left);) {
      CHECK(op->op->contributions.size() == 1);  // client 2 waits for the others
      world.running.erase(op->key);
      ++found;
    }
  }
  CHECK(found == count / 2);
  CHECK(turns >= count / 8);
}
