// Who has which seat, who is a member of which epoch, and how epochs follow each other.
#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "cluster/decider.hpp"
#include "cluster/group.hpp"

using namespace musterd;
using muster::Code;
using muster::OnLoss;
using Joined = Group::Joined;
using Lost = Group::Lost;

namespace {

Group::Settings settings(OnLoss on_loss = OnLoss::fail, int world_size = 3) {
  Group::Settings made;
  made.name = "g";
  made.world_size = world_size;
  made.on_loss = on_loss;
  return made;
}

/// A group, and seats for it with numbers.
struct Scene {
  explicit Scene(OnLoss on_loss = OnLoss::fail, int world_size = 3) : group(settings(on_loss, world_size)) {}
  muster::Result<Joined> join(int rank) {
    const Seat seat{{++last_seat}, {100 + last_seat}, rank};
    auto joined = group.join(group.settings(), seat);
    if (joined) held[rank] = seat.id;
    return joined;
  }
  void join_all() {
    for (int rank = 0; rank < group.settings().world_size; ++rank) REQUIRE(join(rank).value() == Joined::member);
  }
  Lost lose(int rank) { return group.lose(held.at(rank)); }

  Group group;
  std::map<int, SeatId> held;
  std::uint32_t last_seat = 0;
};

}  // namespace

TEST_CASE("the first holders of all ranks are members of the first epoch") {
  Scene scene;
  CHECK(scene.group.epoch() == 1);
  CHECK(scene.group.members() == std::vector{0, 1, 2});
  scene.join_all();
  CHECK(scene.group.live() == std::vector{0, 1, 2});
  CHECK(scene.group.seats().size() == 3);
  CHECK(scene.group.holder(1)->id == scene.held.at(1));
  CHECK_FALSE(scene.group.holder(7));
}

TEST_CASE("a rank has one holder, and is in the group's range") {
  Scene scene;
  REQUIRE(scene.join(0));
  for (const int rank : {0, -1, 3}) {
    const auto refused = scene.join(rank);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code() == Code::invalid);
  }
  CHECK(scene.group.seats().size() == 1);
}

TEST_CASE("a process that joins with other settings is refused, and the error names both") {
  Scene scene;
  Group::Settings other = settings();
  SECTION("world_size") { other.world_size = 4; }
  SECTION("on_loss") { other.on_loss = OnLoss::shrink; }
  SECTION("open") { other.open = true; }
  const auto refused = scene.group.join(other, {{1}, {1}, 0});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code() == Code::invalid);
  CHECK(refused.error().ranks() == std::vector{0});
  CHECK(scene.group.empty());
}

TEST_CASE("a newcomer may take a lost seat, and is a member of the next epoch") {
  Scene scene(GENERATE(OnLoss::fail, OnLoss::shrink));
  scene.join_all();
  CHECK(scene.lose(1) == Lost::member);
  CHECK(scene.group.live() == std::vector{0, 2});
  CHECK(scene.group.lost() == std::vector{1});
  REQUIRE(scene.join(1).value() == Joined::newcomer);
  CHECK(scene.group.is_newcomer(scene.held.at(1)));
  CHECK(scene.group.live() == std::vector{0, 2});
  CHECK_FALSE(scene.join(1));  // another newcomer waits there
  scene.group.begin_epoch(scene.group.next_members(), 2);
  CHECK(scene.group.members() == std::vector{0, 1, 2});
  CHECK(scene.group.lost().empty());
  CHECK_FALSE(scene.group.is_newcomer(scene.held.at(1)));
}

TEST_CASE("in a group with policy wait, a lost seat is taken over in the running epoch") {
  Scene scene(OnLoss::wait);
  scene.join_all();
  CHECK(scene.lose(1) == Lost::member);
  CHECK(scene.join(1).value() == Joined::replacement);
  CHECK(scene.group.live() == std::vector{0, 1, 2});
  CHECK(scene.group.newcomers().empty());
}

TEST_CASE("without newcomers the next epoch has the live ranks") {
  Scene scene(OnLoss::shrink);
  scene.join_all();
  static_cast<void>(scene.lose(0));
  CHECK(scene.group.next_members() == std::vector{1, 2});
  scene.group.begin_epoch(scene.group.next_members(), 2);
  CHECK(scene.group.members() == std::vector{1, 2});
  CHECK_FALSE(scene.group.is_member(0));
  CHECK(scene.join(0).value() == Joined::newcomer);
}

TEST_CASE("when the last member goes, newcomers begin an epoch of all ranks, as in a new group") {
  Scene scene;
  REQUIRE(scene.join(0));
  CHECK(scene.lose(0) == Lost::last);
  CHECK(scene.group.empty());
  REQUIRE(scene.join(0).value() == Joined::newcomer);
  CHECK_FALSE(scene.group.empty());
  scene.group.begin_epoch(scene.group.next_members(), 2);
  CHECK(scene.group.members() == std::vector{0, 1, 2});
  CHECK(scene.join(2).value() == Joined::member);
  CHECK(scene.lose(0) == Lost::member);  // rank 2 has a seat
}

TEST_CASE("nobody misses a newcomer that goes") {
  Scene scene;
  scene.join_all();
  static_cast<void>(scene.lose(1));
  REQUIRE(scene.join(1));
  CHECK(scene.lose(1) == Lost::newcomer);
  CHECK(scene.group.newcomers().empty());
  CHECK(scene.group.live() == std::vector{0, 2});
}

TEST_CASE("epochs may skip numbers, newcomers count on from the one in which they came") {
  Scene scene;
  scene.join_all();
  CHECK_FALSE(scene.group.is_over(1));
  scene.group.begin_epoch(scene.group.next_members(), 5);
  CHECK(scene.group.epoch() == 5);
  CHECK(scene.group.is_over(1));
  CHECK_FALSE(scene.group.is_over(2));  // as newcomers of epoch 1 count it
  CHECK_FALSE(scene.group.is_over(5));
  scene.group.begin_epoch(scene.group.next_members(), 6);
  CHECK(scene.group.is_over(5));
  CHECK(scene.group.is_over(2));
}

TEST_CASE("on one node the decider agrees at once, and numbers epochs in a row") {
  Scene scene;
  LocalDecider decider;
  const auto never = [](const Decision&) { FAIL("it has decided already"); };
  for (std::uint32_t epoch = 1; epoch < 5; ++epoch) {
    const auto decision = decider.propose({Proposal::About::epoch, scene.group}, never);
    REQUIRE(decision);
    CHECK(decision->outcome);
    CHECK(decision->next_epoch == epoch + 1);
    scene.group.begin_epoch(scene.group.next_members(), decision->next_epoch);
  }
}

TEST_CASE("whatever happens, each rank has one holder, and each seat belongs to a member or a newcomer") {
  const unsigned seed = GENERATE(range(0U, 200U));
  std::mt19937 random(seed);
  const auto below = [&](unsigned end) { return static_cast<int>(random() % end); };
  const auto on_loss = static_cast<OnLoss>(below(3));
  Scene scene(on_loss, 1 + below(5));
  Group& group = scene.group;
  std::set<int> holders;  // ranks that have a holder
  for (int step = 0; step < 100; ++step) {
    const int rank = below(static_cast<unsigned>(group.settings().world_size));
    switch (below(4)) {
      case 0:
      case 1: {
        const bool free = !holders.contains(rank);
        const auto joined = scene.join(rank);
        CHECK(joined.ok() == free);
        if (joined) holders.insert(rank);
        break;
      }
      case 2:
        if (!holders.contains(rank)) break;
        static_cast<void>(scene.lose(rank));
        holders.erase(rank);
        break;
      default:
        if (holders.empty()) break;
        group.begin_epoch(group.next_members(), group.epoch() + 1 + static_cast<std::uint32_t>(below(3)));
    }
    std::set<int> found;
    for (const auto* seats : {&group.seats(), &group.newcomers()})
      for (const auto& [of, seat] : *seats) {
        CHECK(found.insert(of).second);
        CHECK(seat.rank == of);
        CHECK(group.holder(of)->id == seat.id);
      }
    CHECK(found == holders);
    CHECK(group.empty() == holders.empty());
    CHECK(std::ranges::is_sorted(group.members()));
    for (const auto& [of, seat] : group.seats()) CHECK(group.is_member(of));
    for (const int lost : group.lost()) CHECK_FALSE(group.seats().contains(lost));
  }
}

TEST_CASE("a group whose epochs are used up takes no newcomers") {
  Group group(settings(OnLoss::fail, 2));
  REQUIRE(group.join(group.settings(), Seat{{1}, {1}, 0}));
  group.begin_epoch({0}, Group::epoch_max);
  const auto refused = group.join(group.settings(), Seat{{2}, {2}, 1});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code() == Code::quota_exceeded);
}
