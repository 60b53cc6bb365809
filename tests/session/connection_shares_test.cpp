#include <catch2/catch.hpp>

#include "session/connection_shares.hpp"

using musterd::ConnectionShares;
using musterd::UserId;

namespace {

constexpr UserId root = 0;
constexpr UserId own = 1000;
constexpr UserId other = 2000;
constexpr UserId third = 3000;

/// Connects as many as may come. Returns how many that were.
int come(ConnectionShares& shares, UserId user, bool say_hello = true) {
  int count = 0;
  for (; shares.has_room_for(user); ++count) {
    shares.came(user);
    if (say_hello) shares.greeted(user);
  }
  return count;
}

std::string refusal(const ConnectionShares& shares, UserId user) {
  const auto room = shares.has_room_for(user);
  return room ? "" : room.error().message();
}

}  // namespace

TEST_CASE("the daemon's user and root may have all connections") {
  const auto user = GENERATE(own, root);
  ConnectionShares shares(64, own);
  CHECK(come(shares, user, false) == 64);
  CHECK(refusal(shares, user) == "64 clients are connected");
}

TEST_CASE("another user has at most half, and all others leave a quarter") {
  ConnectionShares shares(64, own);
  CHECK(come(shares, other) == 32);
  CHECK(refusal(shares, other) == "32 clients of user 2000 are connected");
  CHECK(come(shares, third) == 16);
  CHECK(refusal(shares, third) == "48 clients of users other than the daemon's are connected");
  CHECK(come(shares, own) == 16);
  shares.went(own, true);
  CHECK_FALSE(shares.has_room_for(other));
  CHECK(come(shares, root) == 1);
}

TEST_CASE("another user has at most an eighth of the connections without a Hello") {
  ConnectionShares shares(64, own);
  CHECK(come(shares, other, false) == 8);
  CHECK(refusal(shares, other) == "8 clients of user 2000 that have not said Hello are connected");
  CHECK(shares.has_room_for(third));
  shares.went(other, false);
  CHECK(come(shares, other, false) == 1);
  shares.greeted(other);
  CHECK(come(shares, other, false) == 1);
}

TEST_CASE("a small daemon has room for one connection of another user") {
  ConnectionShares shares(4, own);
  CHECK(come(shares, other, false) == 1);
  CHECK(come(shares, own) == 3);
}
