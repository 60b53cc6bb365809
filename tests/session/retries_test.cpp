// Calls of an op that is done, by its key.
#include <catch2/catch.hpp>

#include "node_parts.hpp"
#include "session/retries.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;

namespace {

struct Retrying : NodeParts {
  GroupPtr group = group_of(2, mebibyte);
  Retrying() {
    for (const std::uint32_t number : {1U, 2U}) {
      const Seat seat{{number}, {number}, static_cast<int>(number) - 1};
      REQUIRE(group->group.join(group->group.settings(), seat));
    }
  }

  /// An op that gave each rank a result of its own, and is remembered.
  std::vector<ObjectPtr> done_op(const std::string& key) {
    RunningOp& op = this->op(2, group, key);
    std::vector<ObjectPtr> outputs;
    for (std::size_t rank = 0; rank < 2; ++rank) {
      outputs.push_back(result(user, 1));
      op.plan.gives.push_back({{true, 0, rank}});
    }
    const auto given = Retries::to_remember(op, outputs);
    REQUIRE(given.size() == 2);
    history.remember(*group, *op.op, given);
    running.erase(op.key);
    return outputs;
  }
  bool call(int rank, const std::string& key, muster::ipc::Kind kind = muster::ipc::Kind::allreduce) {
    auto again = contribution(rank, group);
    again.kind = kind;
    return retries.answer(*group, key, again);
  }
};

}  // namespace

TEST_CASE("a rank that calls an op again gets its own part, and a hold of it") {
  Retrying world;
  const auto outputs = world.done_op("step 1");
  CHECK(world.call(1, "step 1"));
  const auto done = world.done(2);
  REQUIRE(done.size() == 1);
  CHECK(done[0].contributors == 2);
  CHECK(done[0].items.at(0).object == outputs[1]->id);
  CHECK(world.store.holds().held_by({2}) == 1);
  CHECK(world.done(1).empty());
}

TEST_CASE("a call of an op that nobody remembers is not answered") {
  Retrying world;
  world.done_op("step 1");
  CHECK_FALSE(world.call(0, "step 2"));
  CHECK_FALSE(world.call(0, ""));
  CHECK(world.works.size() == 2 + 2);  // those of the first op have not been settled here
}

TEST_CASE("a call of another op with the same key fails") {
  Retrying world;
  world.done_op("step 1");
  CHECK(world.call(0, "step 1", muster::ipc::Kind::barrier));
  REQUIRE(world.failed(1).size() == 1);
  CHECK(world.failed(1)[0].error.code() == Code::mismatch);
}

TEST_CASE("calls that came while the op ran are answered when it is done, with their own parts") {
  Retrying world;
  std::vector<Action> actions;
  auto early = world.contribution(1, world.group);
  early.key = "step 1";
  early.deadline = start + std::chrono::seconds(30);
  const auto object = world.result(NodeParts::user, 1);
  early.inputs.push_back({object, &object->manifest, {object->memories.data(), object->memories.size()}});
  world.group->muster->contribute(std::move(early), start, actions);
  REQUIRE(world.group->muster->in_flight() == 1);
  const auto outputs = world.done_op("step 1");
  world.retries.answer_those_who_called(*world.group, "step 1");
  REQUIRE(world.done(2).size() == 1);
  CHECK(world.done(2)[0].items.at(0).object == outputs[1]->id);
  CHECK(world.group->muster->in_flight() == 0);
}

TEST_CASE("ops of groups that ask for no history are not remembered") {
  Retrying world;
  world.group = world.group_of(2);
  RunningOp& op = world.op(2, world.group, "step 1");
  op.plan.gives.push_back({{true, 0, 0}});
  CHECK(Retries::to_remember(op, std::vector{world.result(NodeParts::user, 1)}).empty());
}
