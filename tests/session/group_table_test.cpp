// Groups by name, their charges, and when they are due. No node.
#include <catch2/catch.hpp>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "session/group_table.hpp"

using namespace musterd;
using muster::Code;
using std::chrono::seconds;

namespace {

Quota quota(std::uint64_t groups) {
  Quota quota;
  quota.total = quota.per_user = quota.per_client = {1 << 20, 100, 100, 100, groups, 8 << 20, 100};
  return quota;
}

Group::Settings named(std::string name, UserId user, bool open = false, bool made = false) {
  Group::Settings settings;
  settings.name = std::move(name);
  settings.world_size = 2;
  settings.user = user;
  settings.open = open;
  settings.made = made;
  return settings;
}

struct World {
  explicit World(std::uint64_t groups = 100) : ledger(quota(groups)) {}
  GroupPtr make(const Group::Settings& settings) {
    auto made = table.make(settings, {settings.user, {1}});
    REQUIRE(made);
    return *made;
  }
  Ledger ledger;
  GroupTable table{ledger, {.seats_max = 4, .muster = {.in_flight_max = 16, .history_max = 64}}};
};

}  // namespace

TEST_CASE("each user has names of its own, and open groups have one for all") {
  World world;
  const auto first = world.make(named("g", 1));
  const auto second = world.make(named("g", 2));
  const auto open = world.make(named("o", 1, true));
  CHECK(world.table.find(named("g", 1)) == first);
  CHECK(world.table.find(named("g", 2)) == second);
  CHECK_FALSE(world.table.find(named("g", 3)));
  CHECK(world.table.find(named("o", 3, true)) == open);
}

TEST_CASE("a group of the same user and name is found even if it is open and should not be, so that joining fails") {
  World world;
  const auto open = world.make(named("g", 1, true));
  CHECK(world.table.find(named("g", 1)) == open);
  CHECK_FALSE(world.table.find(named("g", 2)));
}

TEST_CASE("a name that a process gave has priority over one that a split made") {
  World world;
  const auto made = world.make(named("g/1:0", 1, false, true));
  CHECK(world.table.find(named("g/1:0", 1)) == made);
  const auto given = world.make(named("g/1:0", 1));
  CHECK(world.table.find(named("g/1:0", 1)) == given);
  world.table.remove(given);
  CHECK(world.table.find(named("g/1:0", 1)) == made);
}

TEST_CASE("a group is charged to its maker until its last user lets go") {
  World world(1);
  auto group = world.make(named("g", 1));
  const auto refused = world.table.make(named("h", 1), {1, {1}});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code() == Code::quota_exceeded);
  world.table.remove(group);
  CHECK(world.table.all().empty());
  CHECK_FALSE(world.table.make(named("h", 1), {1, {1}}));
  group.reset();
  CHECK(world.table.make(named("h", 1), {1, {1}}));
}

TEST_CASE("the number of a client's seats is limited") {
  World world;
  Client client;
  CHECK(world.table.check_seats(client, 4));
  CHECK_FALSE(world.table.check_seats(client, 5));
  const auto group = world.make(named("g", 1));
  client.seats.insert(GroupTable::make_seat(client, world.table.next_seat(&client, group->group), {group, 0, {}, {}}));
  CHECK(world.table.check_seats(client, 3));
  CHECK_FALSE(world.table.check_seats(client, 4));
}

TEST_CASE("groups are due in the order of their deadlines, whatever these were before") {
  World world;
  std::mt19937 random(3);
  const TimePoint start{seconds(1000)};
  std::vector<GroupPtr> groups;
  std::vector<TimePoint> earliest;
  for (int i = 0; i < 50; ++i) groups.push_back(world.make(named(std::to_string(i), 1)));
  earliest.resize(groups.size(), TimePoint::max());
  for (int i = 0; i < 500; ++i) {
    const std::size_t at = random() % groups.size();
    const TimePoint deadline = start + seconds(random() % 100U);
    world.table.watch(*groups[at], deadline);
    earliest[at] = std::min(earliest[at], deadline);
  }
  CHECK(world.table.next_deadline() == *std::min_element(earliest.begin(), earliest.end()));
  TimePoint last;
  for (std::size_t count = 0; count < groups.size(); ++count) {
    const auto due = world.table.first_due(TimePoint::max());
    REQUIRE(due);
    CHECK(due->watched >= last);
    last = due->watched;
    const auto at = static_cast<std::size_t>(std::find(groups.begin(), groups.end(), due) - groups.begin());
    CHECK(due->watched == earliest[at]);
    CHECK_FALSE(world.table.first_due(due->watched - seconds(1)));
    GroupTable::unwatch(*due);
  }
  CHECK_FALSE(world.table.next_deadline());
}

TEST_CASE("a removed group is not due any more") {
  World world;
  const auto group = world.make(named("g", 1));
  world.table.watch(*group, TimePoint{seconds(5)});
  world.table.remove(group);
  CHECK_FALSE(world.table.first_due(TimePoint::max()));
}
