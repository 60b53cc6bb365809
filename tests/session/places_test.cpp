// A call takes its place in the order of its group's ops, whatever happens to it; and what is left when ranks go.
#include <catch2/catch.hpp>

#include "client.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;
using muster::Code;

namespace {

/// Settings that let each client have one op in flight.
NodeSettings one_op_each() {
  auto settings = small_settings();
  settings.quota.per_client[static_cast<std::size_t>(Resource::slots)] = 1;
  return settings;
}

}  // namespace

TEST_CASE_METHOD(TwoRanks, "a contribution without its input takes its place and fails the op on every seat") {
  const auto segment_0 = first.lease(1 << 16);
  const auto segment_1 = second.lease(1 << 16);
  const auto step_1_of_0 = first.contribute(Kind::allreduce, {first.seal(segment_0, 0, {1.0F})});
  // Rank 1's first input was never stored, because it is outside the segment.
  ipc::Seal broken;
  broken.object = ipc::make_object_id(second.id(), 77);
  broken.capability = {{1, 2}};
  const std::int64_t shape[]{1 << 20};
  broken.manifest.add(segment_1, 0, muster::DType::float32, shape).value();
  second.record(ipc::SubmissionType::seal, broken);
  const auto step_1_of_1 = second.contribute(Kind::allreduce, {broken.object});
  for (auto failed : {first.failed(step_1_of_0), second.failed(step_1_of_1)}) {
    REQUIRE(failed);
    CHECK(failed->code() == Code::object_lost);
    CHECK(failed->ranks() == std::vector<int>{1});
    CHECK_THAT(failed->message(), Catch::Contains("rank 1") && Catch::Contains("never stored"));
  }
  const auto step_2_of_0 = first.contribute(Kind::allreduce, {first.seal(segment_0, 1024, {2.0F})});
  const auto step_2_of_1 = second.contribute(Kind::allreduce, {second.seal(segment_1, 1024, {3.0F})});
  CHECK(first.done(step_2_of_0));
  CHECK(second.done(step_2_of_1));
}

TEST_CASE_METHOD(TwoRanks, "a rank that says that it has no input fails the op on every seat, with its reason") {
  const auto segment = first.lease(1 << 16);
  const auto waiting = first.contribute(Kind::allreduce, {first.seal(segment, 0, {1.0F})});
  ipc::Contribute without;
  without.work = {900};
  without.seat = second.seat;
  without.epoch = second.epoch;
  without.kind = Kind::allreduce;
  without.timeout_ns = 1'000'000'000;
  without.fault = std::make_shared<muster::Error>(Code::out_of_memory, "the store is full");
  second.record(ipc::SubmissionType::contribute, without);
  REQUIRE(first.failed(waiting));
  CHECK(first.failed(waiting)->code() == Code::out_of_memory);
  CHECK_THAT(first.failed(waiting)->message(), Catch::Contains("rank 1") && Catch::Contains("the store is full"));
  CHECK(second.failed({900}));
}

TEST_CASE("an op over the quota of ops in flight takes its place, too") {
  World world(one_op_each());
  TestClient first(world, 1);
  TestClient second(world, 2);
  first.join("g", 0, 2);
  const auto seat = first.seat;
  first.join("other", 0, 2);
  first.contribute(Kind::barrier);  // it takes the one op that the client may have in flight
  first.seat = seat;
  second.join("g", 1, 2);
  const auto refused = first.contribute(Kind::barrier);
  REQUIRE(first.failed(refused));
  const auto partner = second.contribute(Kind::barrier);
  REQUIRE(second.failed(partner));
  CHECK(second.failed(partner)->code() == Code::quota_exceeded);
}

TEST_CASE("a newcomer that starts more ops than it may gives up its place") {
  World world(one_op_each());
  TestClient first(world, 1);
  TestClient second(world, 2);
  first.join("g", 0, 2);
  second.join("g", 1, 2);
  second.die();
  TestClient third(world, 3);
  third.join("g", 1, 2);
  const auto early = third.contribute(Kind::barrier);
  const auto refused = third.contribute(Kind::barrier);
  REQUIRE(third.failed(early));
  REQUIRE(third.failed(refused));
  CHECK(third.failed(refused)->code() == Code::quota_exceeded);
  const auto after = third.contribute(Kind::barrier);
  REQUIRE(third.failed(after));
  CHECK(third.failed(after)->code() == Code::group_closed);
}

TEST_CASE("a name that a split makes may be taken already") {
  World world;
  TestClient client(world, 1);
  REQUIRE(client.join("x/1:0", 0, 1));
  const auto taken = client.seat;
  REQUIRE(client.join("x", 0, 1));
  const auto split = client.contribute(Kind::split);
  REQUIRE(client.done(split));
  CHECK(client.done(split)->seat != taken);
  client.seat = client.done(split)->seat;
  CHECK(client.done(client.contribute(Kind::barrier)));
}

TEST_CASE("the seat of a group that a split made can be taken again by the group's name") {
  World world;
  TestClient first(world, 1);
  TestClient second(world, 2);
  first.join("g", 0, 2, muster::OnLoss::wait);
  second.join("g", 1, 2, muster::OnLoss::wait);
  const auto split = first.contribute(Kind::split);
  second.contribute(Kind::split);
  REQUIRE(first.done(split));
  const auto name = first.done(split)->name;
  second.die();
  TestClient third(world, 3);
  REQUIRE(third.join(name, 1, 2, muster::OnLoss::wait));
  first.seat = first.done(split)->seat;
  const auto barrier = first.contribute(Kind::barrier);
  third.contribute(Kind::barrier);
  CHECK(first.done(barrier));
}

TEST_CASE("a split leaves nothing of a rank that died after it had contributed") {
  World world;
  {
    TestClient first(world, 1);
    TestClient second(world, 2);
    first.join("g", 0, 2, muster::OnLoss::shrink);
    second.join("g", 1, 2, muster::OnLoss::shrink);
    second.contribute(Kind::split);
    second.die();
    CHECK(first.done(first.contribute(Kind::split)));
    first.die();
  }
  CHECK(world.node.ops_in_flight() == 0);
  TestClient observer(world, 3);
  CHECK(observer.groups().total() == 0);
  CHECK(observer.status().ops_in_flight() == 0);
}

TEST_CASE("when the loss of the last member completes a reform, the newcomers' group goes on") {
  World world;
  TestClient first(world, 1);
  TestClient second(world, 2);
  TestClient third(world, 3);
  first.join("g", 0, 3, muster::OnLoss::shrink);
  second.join("g", 1, 3, muster::OnLoss::shrink);
  third.join("g", 2, 3, muster::OnLoss::shrink);
  third.die();
  TestClient newcomer(world, 4);
  newcomer.join("g", 2, 3, muster::OnLoss::shrink);
  const auto early = newcomer.contribute(Kind::barrier, {}, 0, std::chrono::seconds(1));
  first.contribute(Kind::reform);
  first.die();
  second.die();
  CHECK_FALSE(newcomer.failed(early));
  CHECK(newcomer.groups().total() == 1);
  world.advance(std::chrono::seconds(2));
  REQUIRE(newcomer.failed(early));
  CHECK(newcomer.failed(early)->code() == Code::timeout);
  CHECK(newcomer.failed(early)->ranks() == std::vector<int>{0, 1});
}

TEST_CASE_METHOD(TwoRanks, "a reform that the loss of the last member completes leaves no empty group") {
  first.contribute(Kind::reform);
  first.leave();
  second.leave();
  CHECK(first.groups().total() == 0);
}

TEST_CASE_METHOD(TwoRanks, "a newcomer's op that expires before its epoch begins still takes its place") {
  second.die();
  TestClient third(world, 3);
  third.join("g", 1, 2);
  const auto expired = third.contribute(Kind::barrier, {}, 0, std::chrono::seconds(1));
  const auto next = third.contribute(Kind::barrier, {}, 0, std::chrono::minutes(1));
  world.advance(std::chrono::seconds(2));
  REQUIRE(third.failed(expired));
  REQUIRE(first.done(first.contribute(Kind::reform)));
  first.epoch = 2;
  first.contribute(Kind::barrier);
  // The first op of rank 0 is not the second op of rank 1.
  CHECK_FALSE(third.done(next));
}

TEST_CASE_METHOD(TwoRanks, "a newcomer's reform that can't work gets its answer at its own deadline") {
  second.die();
  TestClient third(world, 3);
  third.join("g", 1, 2);
  const auto nowhere = ipc::make_object_id({3}, 77);
  const auto reform = third.contribute(Kind::reform, {nowhere}, 0, std::chrono::minutes(1));
  const auto expired = third.contribute(Kind::barrier, {}, 0, std::chrono::seconds(1));
  world.advance(std::chrono::seconds(2));
  REQUIRE(third.failed(expired));
  CHECK_FALSE(third.failed(reform));
  world.advance(std::chrono::minutes(2));
  REQUIRE(third.failed(reform));
  CHECK(third.failed(reform)->code() == Code::timeout);
}

TEST_CASE("a client that dies is told nothing about its groups") {
  World world;
  TestClient first(world, 1);
  for (int rank = 0; rank < 4; ++rank) first.join("g", rank, 4);
  first.die();
  CHECK(first.count(ipc::CompletionType::group_changed) == 0);
}

TEST_CASE_METHOD(TwoRanks,
                 "a client that dies with an old and a new seat of a group is not told of the epoch that begins") {
  second.leave();
  first.join("g", 1, 2);
  const auto told = first.count(ipc::CompletionType::group_changed);
  first.die();
  CHECK(first.count(ipc::CompletionType::group_changed) == told);
  CHECK(second.groups().total() == 0);
}

TEST_CASE("the ends of objects that end with their job are told at once") {
  World world;
  world.outside.jobs.hold = true;
  TestClient client(world, 1);
  const auto segment = client.lease(1 << 20);
  const std::vector<float> values(32 << 10, 1.0F);
  const auto a = client.seal(segment, 0, values);
  const auto b = client.seal(segment, 512 << 10, values);
  ipc::Combine combine;
  combine.work = {100};
  combine.timeout_ns = Duration(std::chrono::seconds(30)).count();
  combine.ranks = 2;
  combine.objects = {a, b};
  client.record(ipc::SubmissionType::combine, combine);
  client.record(ipc::SubmissionType::release, ipc::Release{{a, b}});
  REQUIRE(client.count(ipc::CompletionType::object_gone) == 0);
  world.outside.jobs.end_all();
  REQUIRE(client.done({100}));
  CHECK(client.count(ipc::CompletionType::object_gone) == 2);
}
