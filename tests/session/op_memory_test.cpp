// The memory of an op: all of it or none, now or later.
#include <catch2/catch.hpp>

#include "node_parts.hpp"
#include "session/op_memory.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;

namespace {

struct Memory : NodeParts {
  explicit Memory(Quota quota = memory_quota(64 * mebibyte)) : NodeParts(quota) {}
  OpMemory memory{{ledger, results, pressure, works, settings.segments_of_turn}};

  /// An op with so many results of so many bytes each.
  RunningOp& planned(std::size_t outputs, std::uint64_t bytes, GroupPtr group = nullptr) {
    RunningOp& op = this->op(2, std::move(group));
    for (std::size_t i = 0; i < outputs; ++i) op.plan.outputs.push_back({{}, bytes});
    op.result_bytes = outputs * bytes;
    op.planned = true;
    return op;
  }
  std::uint64_t used() const { return ledger.total().used[Resource::memory]; }
};

}  // namespace

TEST_CASE("an op gets memory for all its results") {
  Memory world;
  RunningOp& op = world.planned(3, mebibyte);
  REQUIRE(world.memory.take(op, Turn::its_own));
  REQUIRE(op.regions.size() == 3);
  CHECK(op.regions_made == 3);
  for (const auto& region : op.regions) CHECK(ResultPool::is_made(region));
  CHECK(world.results.used_bytes() >= 3 * mebibyte);
}

TEST_CASE("an op whose results don't all fit gets nothing") {
  Memory world(memory_quota(4 * mebibyte));
  for (const std::size_t outputs : {std::size_t{3}, std::size_t{9}}) {  // many are refused without a try
    RunningOp& op = world.planned(outputs, 3 * mebibyte);
    const auto refused = world.memory.take(op, Turn::its_own);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code() == Code::out_of_memory);
    CHECK(op.regions.empty());
    CHECK(world.results.used_bytes() == 0);
  }
  RunningOp& fits = world.planned(1, 3 * mebibyte);
  CHECK(world.memory.take(fits, Turn::its_own));
}

TEST_CASE("results that others have let go of make room for an op") {
  Memory world(memory_quota(4 * mebibyte));
  RunningOp& first = world.planned(1, mebibyte);
  REQUIRE(world.memory.take(first, Turn::its_own));
  world.running.erase(first.key);
  CHECK(world.used() > 0);  // the pool keeps the segment for the next results
  RunningOp& op = world.planned(1, 4 * mebibyte);
  CHECK(world.memory.take(op, Turn::its_own));
}

TEST_CASE("many segments are made in several turns") {
  Memory world;
  world.settings.segments_of_turn = 2;
  RunningOp& op = world.planned(5, 8 * mebibyte);
  REQUIRE(world.memory.take(op, Turn::its_own));
  CHECK(op.regions.size() == 5);
  CHECK(op.regions_made == 2);
  int turns = 1;
  for (bool all = false; !all; ++turns) {
    const auto made = world.memory.make_some(op);
    REQUIRE(made);
    all = *made;
  }
  CHECK(turns == 3);
  CHECK(op.regions_made == 5);
}

TEST_CASE("an op that waits keeps the sizes of a large plan only, and is charged for them") {
  Memory world;
  RunningOp& op = world.planned(50, 64);
  op.plan_bytes = 1 << 20;
  op.plan.gives.resize(1000);
  REQUIRE(world.memory.keep_sizes(op));
  CHECK(op.put_aside);
  CHECK(op.plan.outputs.size() == 50);
  CHECK(op.plan.outputs[7].bytes == 64);
  CHECK(op.plan.gives.empty());
  CHECK(op.heap.amount() >= 50 * sizeof(PlannedOutput));
  CHECK(op.heap.amount() < 16 << 10);
}

TEST_CASE("results of an op lie apart if one of its ranks has left the open group") {
  Memory world;
  const auto group = world.group_of(2, 0, true);
  for (const int rank : {0, 1}) {
    const auto client = static_cast<std::uint32_t>(rank + 1);
    REQUIRE(group->group.join(group->group.settings(), {{client}, {client}, rank}));
  }
  RunningOp& with_all = world.planned(1, 64, group);
  REQUIRE(world.memory.take(with_all, Turn::its_own));
  RunningOp& after = world.planned(1, 64, group);
  REQUIRE(world.memory.take(after, Turn::its_own));
  CHECK(after.regions[0].segment() == with_all.regions[0].segment());
  group->group.lose({2});
  RunningOp& without = world.planned(1, 64, group);  // the second client still waits for this one
  REQUIRE(world.memory.take(without, Turn::its_own));
  CHECK(without.regions[0].segment() != with_all.regions[0].segment());
}
