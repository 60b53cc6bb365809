// Faults that the walk has found and that are not mended yet. Each test says what should be; whoever mends a fault
// removes its tag here and its constant in tests/walk/known.hpp.
#include <catch2/catch.hpp>

#include "client.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;

TEST_CASE("a newcomer's op that expires before its epoch begins still takes its place", "[!shouldfail]") {
  World world;
  TestClient first(world, 1);
  TestClient second(world, 2);
  first.join("g", 0, 2);
  second.join("g", 1, 2);
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
  // The first op of rank 0 is not the second of rank 1.
  CHECK_FALSE(third.done(next));
}

TEST_CASE("objects that end with their job are told of at once", "[!shouldfail]") {
  World world;
  world.outside.hold_jobs = true;
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
  world.outside.run_ready();
  REQUIRE(client.done({100}));
  CHECK(client.count(ipc::CompletionType::object_gone) == 2);
}
