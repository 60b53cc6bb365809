// Long work that one client can cause at once is done in pieces, one in each turn.
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>

#include "client.hpp"
#include "walk/audit.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;
using muster::OnLoss;

namespace {

NodeSettings roomy_settings() {
  auto settings = small_settings();
  settings.seats_max = 2000;
  for (auto* amounts : {&settings.quota.total, &settings.quota.per_user, &settings.quota.per_client})
    for (const auto resource : {Resource::groups, Resource::fds, Resource::slots, Resource::maps})
      (*amounts)[static_cast<std::size_t>(resource)] = 8192;
  return settings;
}

/// An object of so many arrays that the node needs long to plan an op of it and to make the result.
ipc::ObjectId seal_many_arrays(TestClient& client) {
  constexpr int arrays = 4000;
  const std::int64_t shape[]{1};
  const auto segment = client.lease(4096);
  ipc::Manifest manifest;
  for (int i = 0; i < arrays; ++i) manifest.add(segment, 0, muster::DType::float32, shape).value();
  return client.seal(std::move(manifest), {});
}

/// Lets the node go on to the end. Returns by how much `count` grows in one turn at most, from its former value on.
template <class Count>
std::size_t most_in_a_turn(World& world, std::size_t before, Count count) {
  std::size_t most = count() - before;
  while (world.node.goes_on()) {
    before = count();
    world.go_on();
    most = std::max(most, count() - before);
  }
  return most;
}

}  // namespace

TEST_CASE("ops of many arrays that newcomers called early run a few in a turn") {
  constexpr std::size_t ops = 40;
  World world(roomy_settings());
  TestClient first(world, 1);
  TestClient second(world, 2);
  TestClient member(world, 3);
  int rank = 0;
  for (auto* client : {&first, &second, &member}) client->join("g", rank++, 3, OnLoss::shrink);
  for (auto* newcomer : {&first, &second}) {
    const auto input = seal_many_arrays(*newcomer);
    newcomer->leave();
    newcomer->join("g", newcomer == &first ? 0 : 1, 3, OnLoss::shrink);
    for (std::size_t i = 0; i < ops; ++i) newcomer->contribute(Kind::allreduce, {input});
  }
  const auto done = [&] { return second.count(ipc::CompletionType::done); };
  member.contribute(Kind::reform);
  member.die();
  CHECK(most_in_a_turn(world, 0, done) <= 2);
  CHECK(done() == ops);
}

TEST_CASE("early ops of many arrays run a few in a turn, however many epochs begin at once") {
  constexpr std::size_t groups = 30;
  World world(roomy_settings());
  TestClient newcomer(world, 1);
  TestClient member(world, 2);
  const auto input = seal_many_arrays(newcomer);
  for (std::size_t i = 0; i < groups; ++i) {
    // In an open group everything that a rank sends is copied, even to itself.
    const auto name = std::to_string(i);
    newcomer.join(name, 0, 2, OnLoss::shrink, true);
    member.join(name, 1, 2, OnLoss::shrink, true);
    newcomer.leave();
    newcomer.join(name, 0, 2, OnLoss::shrink, true);
    newcomer.contribute(Kind::send, {input});
    newcomer.contribute(Kind::recv);
  }
  const auto done = [&] { return newcomer.count(ipc::CompletionType::done); };
  member.die();
  CHECK(most_in_a_turn(world, 0, done) <= 4);
  CHECK(done() == 2 * groups);
}

TEST_CASE("ops of many arrays that a loss completes run a few in a turn, in order") {
  constexpr std::size_t ops = 40;
  World world(roomy_settings());
  TestClient first(world, 1);
  TestClient second(world, 2);
  TestClient third(world, 3);
  const auto input = seal_many_arrays(first);
  first.join("g", 0, 3, OnLoss::shrink);
  second.join("g", 1, 3, OnLoss::shrink);
  third.join("g", 2, 3, OnLoss::shrink);
  const auto other = seal_many_arrays(second);
  std::vector<std::uint64_t> works;
  for (std::size_t i = 0; i < ops; ++i) {
    works.push_back(first.contribute(Kind::allreduce, {input}).value);
    second.contribute(Kind::allreduce, {other});
  }
  const auto done = [&] { return first.count(ipc::CompletionType::done); };
  third.die();
  CHECK(most_in_a_turn(world, 0, done) <= 2);
  std::vector<std::uint64_t> order;
  for (const auto& completion : world.outside.completions[first.id()])
    if (completion.type == ipc::CompletionType::done)
      order.push_back(ipc::read_done(completion.body).value().work.value);
  CHECK(order == works);
}

TEST_CASE("ops of very many inputs that a loss ends fail a few in a turn") {
  constexpr std::size_t ops = 40;
  World world(roomy_settings());
  TestClient first(world, 1);
  TestClient second(world, 2);
  const auto input = seal_many_arrays(first);
  first.join("g", 0, 2);
  second.join("g", 1, 2);
  for (std::size_t i = 0; i < ops; ++i) first.contribute(Kind::allreduce, {input});
  const auto failed = [&] { return first.count(ipc::CompletionType::failed); };
  second.die();
  CHECK(most_in_a_turn(world, 0, failed) <= 2);
  CHECK(failed() == ops);
}

TEST_CASE("ops of many arrays that wait for memory are served a few in a turn") {
  constexpr std::size_t ops = 20;
  auto settings = roomy_settings();
  const auto memory = static_cast<std::size_t>(Resource::memory);
  World world(settings);
  TestClient client(world, 1);
  TestClient holder(world, 2);
  const auto input = seal_many_arrays(client);
  client.join("g", 0, 1);
  const auto free = settings.quota.total[memory] - client.status().memory_used_bytes();
  const auto held = holder.lease(free - (std::uint64_t{64} << 10));
  for (std::size_t i = 0; i < ops; ++i) client.contribute(Kind::allreduce, {input});
  const auto done = [&] { return client.count(ipc::CompletionType::done); };
  REQUIRE(done() == 0);
  holder.give_back(held);
  CHECK(most_in_a_turn(world, 0, done) <= 2);
  CHECK(done() == ops);
}

TEST_CASE("each group has at most one pending telling, and every member learns the newest state") {
  constexpr int ranks = 700;
  constexpr int changes = 300;
  World world(roomy_settings());
  TestClient members(world, 1);
  TestClient toggles(world, 2);
  for (int rank = 1; rank < ranks; ++rank) REQUIRE(members.join("g", rank, ranks, OnLoss::wait));
  REQUIRE(toggles.join("g", 0, ranks, OnLoss::wait));
  world.outside.take(members.id());
  const auto told = [&] { return members.count(ipc::CompletionType::group_changed); };
  std::size_t told_at_once = 0;  // and not in turn with other work
  for (int i = 0; i < changes; ++i) {
    const auto before = told();
    toggles.leave();
    REQUIRE(toggles.join("g", 0, ranks, OnLoss::wait));
    if (i > 0) told_at_once += told() - before;
  }
  CHECK(told_at_once == 0);
  std::vector<int> lost;
  SECTION("whoever has the seat") {}
  SECTION("even if nobody has it any more") {
    toggles.die();
    lost = {0};
  }
  int turns = 0;
  for (; world.node.goes_on(); ++turns) {
    const auto before = told();
    world.go_on();
    CHECK(told() - before <= 256);
    REQUIRE(turns < 30);
  }
  CHECK(turns > 3);
  CHECK(told() < 3 * ranks);
  std::map<std::uint32_t, std::vector<int>> newest;
  for (const auto& completion : world.outside.completions[members.id()])
    if (completion.type == ipc::CompletionType::group_changed) {
      const auto changed = ipc::read_group_changed(completion.body).value();
      newest[changed.seat.value] = changed.lost;
    }
  CHECK(newest.size() == ranks - 1);
  CHECK(std::ranges::all_of(newest, [&](const auto& told_last) { return told_last.second == lost; }));
}

TEST_CASE("pending tellings hold up no losses, and groups take turns") {
  constexpr int ranks = 700;
  World world(roomy_settings());
  TestClient members(world, 1);
  TestClient toggles(world, 2);
  TestClient first(world, 3);
  TestClient second(world, 4);
  for (const char* group : {"g", "h"})
    for (int rank = 1; rank < ranks; ++rank) REQUIRE(members.join(group, rank, ranks, OnLoss::wait));
  constexpr int shared = 60;
  for (int i = 0; i < shared; ++i) {
    first.join(std::to_string(i), 0, 2);
    second.join(std::to_string(i), 1, 2);
    first.contribute(Kind::barrier);
  }
  for (int i = 0; i < 200; ++i)
    for (const char* group : {"g", "h"}) {
      REQUIRE(toggles.join(group, 0, ranks, OnLoss::wait));
      toggles.leave();
    }
  world.outside.take(members.id());
  second.die();
  for (int turns = 0; turns < 2; ++turns) world.go_on();
  CHECK(first.count(ipc::CompletionType::failed) == shared);
  while (world.node.goes_on()) world.go_on();
  CHECK(first.count(ipc::CompletionType::group_changed) == shared);
}

TEST_CASE("an object in many segments ends at once, and its segments end in pieces") {
  World world(roomy_settings());
  TestClient writer(world, 1);
  TestClient reader(world, 2);
  TestClient onlooker(world, 3);
  constexpr std::size_t many = 600;
  const std::int64_t shape[]{1};
  ipc::Manifest manifest;
  std::vector<ipc::SegmentId> segments;
  const auto before = onlooker.status().memory_used_bytes();
  for (std::size_t i = 0; i < many; ++i) {
    segments.push_back(writer.lease(4096));
    reader.map(segments.back());
    manifest.add(segments.back(), 0, muster::DType::float32, shape).value();
  }
  const auto object = writer.seal(std::move(manifest), {});
  for (const auto segment : segments) writer.record(ipc::SubmissionType::hand_over, ipc::HandOver{segment});
  const auto told = [&] { return reader.count(ipc::CompletionType::segment_gone); };
  writer.record(ipc::SubmissionType::release, ipc::Release{{object}});
  CHECK(onlooker.status().objects() == 0);
  CHECK(NodeAudit(world.node).contradictions().empty());
  SECTION("while their reader goes on") {
    CHECK(most_in_a_turn(world, 0, told) <= SegmentTable::drops_of_turn);
    CHECK(told() == many);
    for (const auto segment : segments) reader.record(ipc::SubmissionType::unmapped, ipc::Unmapped{segment});
  }
  SECTION("while their reader has unmapped them before it hears of the end") {
    for (const auto segment : segments) reader.record(ipc::SubmissionType::unmapped, ipc::Unmapped{segment});
    while (world.node.goes_on()) world.go_on();
    CHECK(told() < many);
  }
  SECTION("while their reader goes") {
    reader.die();
    while (world.node.goes_on()) world.go_on();
  }
  CHECK(onlooker.status().segments() == 0);
  CHECK(onlooker.status().memory_used_bytes() <= before);
  CHECK(NodeAudit(world.node).contradictions().empty());
}
