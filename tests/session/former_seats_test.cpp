// Who held the seats that were lost lately. No node.
#include <catch2/catch.hpp>

#include "session/former_seats.hpp"

using namespace musterd;
using namespace std::chrono_literals;

namespace {

Group::Settings named(std::string name, std::uint32_t user, bool open = false) {
  Group::Settings settings;
  settings.name = std::move(name);
  settings.user = user;
  settings.open = open;
  return settings;
}

const TimePoint start{1h};

}  // namespace

TEST_CASE("the last holder of a seat is found by group and rank, with how and when it went") {
  FormerSeats former;
  former.add(named("g", 1), 0, {"left", "pid 7"}, start);
  former.add(named("g", 1), 1, {"exited with status 3", "pid 8"}, start + 1s);
  former.add(named("g", 1), 1, {"ended", "pid 9"}, start + 2s);
  const auto found = former.find(named("g", 1), 1, start + 5s);
  REQUIRE(found);
  CHECK(found->loss.how == "ended");
  CHECK(found->loss.process == "pid 9");
  CHECK(found->ago == 3s);
  CHECK(former.find(named("g", 1), 0, start)->loss.process == "pid 7");
  CHECK_FALSE(former.find(named("g", 1), 2, start));
  CHECK_FALSE(former.find(named("h", 1), 1, start));
}

TEST_CASE("holders of another user's group with the same name are not told") {
  FormerSeats former;
  former.add(named("g", 1), 0, {"left", "pid 7"}, start);
  CHECK_FALSE(former.find(named("g", 2), 0, start));
}

TEST_CASE("holders of an open group are not remembered: who joins it later may be anybody") {
  FormerSeats former;
  former.add(named("o", 1, true), 0, {"left", "pid 8"}, start);
  CHECK_FALSE(former.find(named("o", 1, true), 0, start));
  CHECK_FALSE(former.find(named("o", 2, true), 0, start));
  CHECK_FALSE(former.find(named("o", 1), 0, start));
}

TEST_CASE("the oldest are forgotten") {
  FormerSeats former;
  for (int rank = 0; rank <= static_cast<int>(FormerSeats::kept_max); ++rank)
    former.add(named("g", 1), rank, {"left", "pid 7"}, start);
  CHECK_FALSE(former.find(named("g", 1), 0, start));
  CHECK(former.find(named("g", 1), 1, start));
}
