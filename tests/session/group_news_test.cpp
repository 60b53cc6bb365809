// Members of a group are told of its newest state, a few in each turn.
#include <catch2/catch.hpp>

#include <limits>

#include "node_parts.hpp"
#include "session/group_news.hpp"

using namespace musterd;
using namespace musterd::testing;

namespace {

struct News : NodeParts {
  GroupNews news{clients, outside};

  GroupPtr seated(int ranks) {
    auto group = group_of(ranks);
    for (int rank = 0; rank < ranks; ++rank) {
      const ClientId client{static_cast<std::uint32_t>(rank + 1)};
      if (!clients.find(client)) REQUIRE(clients.add(client, {user, static_cast<std::int32_t>(client.value)}, start));
      REQUIRE(group->group.join(group->group.settings(), {{client.value}, client, rank}));
    }
    return group;
  }
  /// How often each client was told; also empties what they were told.
  std::vector<std::size_t> told(int ranks) {
    std::vector<std::size_t> counts;
    for (int rank = 0; rank < ranks; ++rank)
      counts.push_back(outside.take({static_cast<std::uint32_t>(rank + 1)}).size());
    return counts;
  }
};

}  // namespace

TEST_CASE("every member of a small group is told at once of who is lost") {
  News world;
  const auto group = world.seated(3);
  group->group.lose({2});
  std::size_t left = 100;
  world.news.tell(*group, left);
  CHECK_FALSE(world.news.goes_on());
  CHECK(left < 100);
  for (const std::uint32_t client : {1U, 3U}) {
    const auto heard = world.outside.take({client});
    REQUIRE(heard.size() == 1);
    const auto changed = muster::ipc::read_group_changed(heard[0].body).value();
    CHECK(changed.seat.value == client);
    CHECK(changed.lost == std::vector<std::int32_t>{1});
    CHECK(changed.live == std::vector<std::int32_t>{0, 2});
  }
  CHECK(world.outside.take({2}).empty());
}

TEST_CASE("a large group is told in pieces, and each member once, although it changes meanwhile") {
  constexpr int ranks = 1000;
  News world;
  const auto group = world.seated(ranks);
  std::size_t left = 10;
  world.news.tell(*group, left);
  CHECK(world.news.goes_on());
  // The second change is told with the first: to all who have not been told yet, and then to the others.
  group->group.lose({ranks});
  left = 0;
  world.news.tell(*group, left);
  int turns = 0;
  for (; world.news.goes_on(); ++turns) world.news.go_on();
  CHECK(turns > 1);
  const auto told = world.told(ranks);
  // Only those who heard of the first change before the second are told twice.
  for (std::size_t rank = 0; rank + 1 < ranks; ++rank) CHECK((told[rank] == 1 || (rank < 10 && told[rank] == 2)));
  CHECK(told[ranks - 1] == 0);
}

TEST_CASE("groups noted for later are told together") {
  News world;
  const auto first = world.seated(2);
  const auto second = world.seated(2);
  UntoldGroups noted;
  GroupNews::note(*first, noted);
  GroupNews::note(*second, noted);
  GroupNews::note(*second, noted);  // twice is once
  CHECK(world.told(2) == std::vector<std::size_t>{0, 0});
  std::size_t left = 100;
  world.news.tell(noted, left);
  CHECK(noted.empty());
  CHECK_FALSE(world.news.goes_on());
  CHECK(world.told(2) == std::vector<std::size_t>{2, 2});
}

TEST_CASE("a group that ends has nobody to tell") {
  News world;
  auto group = world.seated(2);
  std::size_t left = 0;
  world.news.tell(*group, left);
  CHECK(world.news.goes_on());
  group.reset();
  CHECK_FALSE(world.news.goes_on());
}
