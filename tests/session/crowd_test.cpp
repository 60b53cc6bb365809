#include <catch2/catch.hpp>

#include "session/crowd.hpp"

using musterd::Crowd;
using musterd::UserId;

namespace {

constexpr UserId root = 0;
constexpr UserId own = 1000;
constexpr UserId other = 2000;
constexpr UserId third = 3000;

/// Connects as many as may come. Returns how many that were.
int come(Crowd& crowd, UserId user, bool say_hello = true) {
  int count = 0;
  for (; crowd.has_room_for(user); ++count) {
    crowd.came(user);
    if (say_hello) crowd.greeted(user);
  }
  return count;
}

std::string refusal(const Crowd& crowd, UserId user) {
  const auto room = crowd.has_room_for(user);
  return room ? "" : room.error().message();
}

}  // namespace

TEST_CASE("the daemon's user and root may have all connections") {
  const auto user = GENERATE(own, root);
  Crowd crowd(64, own);
  CHECK(come(crowd, user, false) == 64);
  CHECK(refusal(crowd, user) == "64 clients are connected");
}

TEST_CASE("another user has at most half, and all others leave a quarter") {
  Crowd crowd(64, own);
  CHECK(come(crowd, other) == 32);
  CHECK(refusal(crowd, other) == "32 clients of user 2000 are connected");
  CHECK(come(crowd, third) == 16);
  CHECK(refusal(crowd, third) == "48 clients of users other than the daemon's are connected");
  CHECK(come(crowd, own) == 16);
  crowd.went(own, true);
  CHECK_FALSE(crowd.has_room_for(other));
  CHECK(come(crowd, root) == 1);
}

TEST_CASE("another user has at most an eighth of the connections without a Hello") {
  Crowd crowd(64, own);
  CHECK(come(crowd, other, false) == 8);
  CHECK(refusal(crowd, other) == "8 clients of user 2000 that have not said Hello are connected");
  CHECK(crowd.has_room_for(third));
  crowd.went(other, false);
  CHECK(come(crowd, other, false) == 1);
  crowd.greeted(other);
  CHECK(come(crowd, other, false) == 1);
}

TEST_CASE("a small daemon has room for one connection of another user") {
  Crowd crowd(4, own);
  CHECK(come(crowd, other, false) == 1);
  CHECK(come(crowd, own) == 3);
}
