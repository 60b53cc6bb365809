// Outcomes with objects: room for all of them comes first, each rank is told once, and many are told in pieces. No
// node, no socket.
#include <catch2/catch.hpp>

#include <muster/ipc/records.hpp>

#include "recorder.hpp"
#include "session/giver.hpp"
#include "store/world.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;
using muster::ipc::CompletionType;
using muster::ipc::Kind;

namespace {

constexpr UserId user = 1000;

struct GivingWorld : StoreWorld {
  explicit GivingWorld(Quota quota = memory_quota(64 * mebibyte)) : StoreWorld({}, quota) {}
  Recorder outside;
  Clients clients{ledger, 0, ""};
  Teller teller{clients, outside};
  Works works{clients, teller, store, outside, 1};
  Giver giver{clients, works, store};
  RunningOps running;
  GroupPtr group = std::make_shared<GroupState>(
      Group::Settings{.name = "g", .world_size = 1000, .on_loss = {}, .timeout = {}, .user = user}, Muster::Limits{},
      Charge{});

  /// An op of so many ranks, each of a client of its own, that gives every rank one result.
  RunningOp& op(int ranks, bool the_same) {
    RunningOp& made = running[++last_];
    made.key = last_;
    made.group = group;
    auto op = std::make_shared<Op>();
    op->world_size = ranks;
    for (int rank = 0; rank < ranks; ++rank) {
      const ClientId client{static_cast<std::uint32_t>(rank + 1)};
      if (!clients.find(client)) REQUIRE(clients.add(client, {user, static_cast<std::int32_t>(client.value)}, start));
      Contribution contribution;
      contribution.rank = rank;
      contribution.kind = Kind::allreduce;
      contribution.ticket = works.add({client, {last_}, {client.value}, group, {}});
      op->contributions.push_back(std::move(contribution));
      if (!the_same) made.plan.gives.push_back({{true, 0, static_cast<std::size_t>(rank)}});
    }
    if (the_same) made.plan.gives.push_back({{true, 0, 0}});
    made.op = std::move(op);
    return made;
  }
  Objects outputs(std::size_t count) {
    Objects made;
    for (std::size_t i = 0; i < count; ++i) made.push_back(result(user, 1));
    return made;
  }
  /// What the client was told.
  std::vector<muster::ipc::Done> told(std::uint32_t client) {
    std::vector<muster::ipc::Done> told;
    for (const auto& completion : outside.take({client}))
      if (completion.type == CompletionType::done) told.push_back(muster::ipc::read_done(completion.body).value());
    return told;
  }

 private:
  std::uint64_t last_ = 0;
};

}  // namespace

TEST_CASE("every rank gets the result, a hold of it, and one word") {
  GivingWorld given;
  RunningOp& op = given.op(3, true);
  auto outputs = given.outputs(1);
  const auto object = outputs[0]->id;
  auto prepared = given.giver.prepare(op, std::move(outputs));
  REQUIRE(prepared);
  REQUIRE(given.giver.reserve(op));
  given.giver.give(std::move(*prepared), given.running.extract(op.key));
  CHECK_FALSE(given.giver.goes_on());
  for (std::uint32_t client = 1; client <= 3; ++client) {
    const auto told = given.told(client);
    REQUIRE(told.size() == 1);
    CHECK(told[0].contributors == 3);
    REQUIRE(told[0].items.size() == 1);
    CHECK(told[0].items[0].object == object);
    CHECK(given.store.holds().held_by({client}) == 1);
  }
  CHECK(given.works.size() == 0);
}

TEST_CASE("each rank gets its own result") {
  GivingWorld given;
  RunningOp& op = given.op(4, false);
  const auto outputs = given.outputs(4);
  auto prepared = given.giver.prepare(op, outputs);
  REQUIRE(prepared);
  REQUIRE(given.giver.reserve(op));
  given.giver.give(std::move(*prepared), given.running.extract(op.key));
  for (std::uint32_t client = 1; client <= 4; ++client)
    CHECK(given.told(client).at(0).items[0].object == outputs[client - 1]->id);
}

TEST_CASE("who has gone is given nothing, and the others get theirs") {
  GivingWorld given;
  RunningOp& op = given.op(3, true);
  auto prepared = given.giver.prepare(op, given.outputs(1));
  REQUIRE(prepared);
  given.clients.erase({2});
  REQUIRE(given.giver.reserve(op));
  given.giver.give(std::move(*prepared), given.running.extract(op.key));
  CHECK(given.told(1).size() == 1);
  CHECK(given.told(2).empty());
  CHECK(given.told(3).size() == 1);
  CHECK(given.store.holds().held_by({2}) == 0);
}

TEST_CASE("where one rank has no room for its hold, nobody is given anything") {
  Quota quota = memory_quota(64 * mebibyte);
  quota.per_client[Resource::heap] = 1 << 20;
  GivingWorld given(quota);
  RunningOp& op = given.op(2, true);
  // The second client has used up what it may keep.
  const auto rest = given.ledger.charge(
      {user, {2}}, Resource::heap, quota.per_client[Resource::heap] - given.ledger.client({2}).used[Resource::heap]);
  REQUIRE(rest);
  auto prepared = given.giver.prepare(op, given.outputs(1));
  REQUIRE(prepared);
  const auto before = given.ledger.client({1}).used;
  CHECK(given.giver.reserve(op).error().code() == Code::quota_exceeded);
  CHECK(given.store.holds().held_by({1}) == 0);
  CHECK(given.told(1).empty());
  // What was kept for the first rank can be used again.
  CHECK(given.store.holds().reserve({user, {1}}, 1));
  CHECK(given.ledger.client({1}).used[Resource::objects] == before[Resource::objects]);
}

TEST_CASE("a thousand ranks are told in pieces, each once") {
  GivingWorld given;
  constexpr int ranks = 1000;
  RunningOp& op = given.op(ranks, true);
  auto prepared = given.giver.prepare(op, given.outputs(1));
  REQUIRE(prepared);
  CHECK(prepared->takes_turns);
  REQUIRE(given.giver.reserve(op));
  given.giver.give(std::move(*prepared), given.running.extract(op.key));
  CHECK(given.giver.goes_on());
  int turns = 1;
  for (; given.giver.goes_on(); ++turns) given.giver.go_on();
  CHECK(turns > 2);
  for (std::uint32_t client = 1; client <= ranks; ++client) CHECK(given.told(client).size() == 1);
}

TEST_CASE("an outcome of more objects than a record can name is refused before anybody is told") {
  GivingWorld given;
  RunningOp& op = given.op(1, false);
  auto& gives = op.plan.gives.front();
  const auto output = given.outputs(1);
  while (gives.size() < 2001) gives.push_back({true, 0, 0});
  const auto prepared = given.giver.prepare(op, output);
  REQUIRE_FALSE(prepared);
  CHECK(prepared.error().code() == Code::invalid);
  CHECK(prepared.error().message() == "the outcome would have 2001 objects");
  CHECK(given.told(1).empty());
}
