// Which reply belongs to which request, and what happens to a reply that nobody waits for any more.
#include <catch2/catch.hpp>

#include <cstddef>

#include "core/protocol/replies.hpp"

namespace {

using muster::detail::Replies;
using muster::ipc::Packet;

constexpr Replies::Asked join = 3, lease = 4;

Packet packet(int value) {
  Packet made;
  made.bytes = {std::byte{static_cast<unsigned char>(value)}};
  return made;
}
int value_of(const Packet& given) { return std::to_integer<int>(given.bytes.at(0)); }

TEST_CASE("each waits for the reply with its own number") {
  Replies replies;
  const auto first = replies.asked(), second = replies.asked();
  CHECK(first != second);
  CHECK_FALSE(replies.taken(first));
  auto reply = packet(2);
  CHECK_FALSE(replies.arrived(second, reply));
  CHECK_FALSE(replies.taken(first));
  CHECK(value_of(replies.taken(second).value()) == 2);
  CHECK_FALSE(replies.taken(second));
}

TEST_CASE("a reply without a request is dropped") {
  Replies replies;
  auto reply = packet(1);
  CHECK_FALSE(replies.arrived(replies.told(), reply));
  CHECK_FALSE(replies.arrived(99, reply));
  CHECK(value_of(reply) == 1);
}

TEST_CASE("a grant that comes after its request was given up is given back") {
  Replies replies;
  const auto number = replies.asked();
  CHECK_FALSE(replies.given_up(number, lease));
  CHECK(replies.may_still_be_granted(lease));
  CHECK_FALSE(replies.may_still_be_granted(join));
  auto reply = packet(1);
  CHECK(replies.arrived(number, reply) == lease);
  CHECK(value_of(reply) == 1);
  // Not before it has been given back: a thread that waits for this may ask for the same next.
  CHECK(replies.may_still_be_granted(lease));
  replies.given_back(number);
  CHECK_FALSE(replies.may_still_be_granted(lease));
  CHECK_FALSE(replies.arrived(number, reply));
}

TEST_CASE("a reply that came just before its request was given up is given back, too") {
  Replies replies;
  const auto number = replies.asked();
  auto reply = packet(5);
  CHECK_FALSE(replies.arrived(number, reply));
  CHECK(value_of(replies.given_up(number, lease).value()) == 5);
  CHECK_FALSE(replies.may_still_be_granted(lease));
}

TEST_CASE("no more requests begin than the daemon accepts") {
  Replies replies;
  const auto first = replies.asked(), second = replies.asked(), third = replies.asked(), urgent = replies.asked();
  REQUIRE((replies.begins(first, 2) && replies.begins(second, 2)));
  CHECK_FALSE(replies.begins(third, 2));
  SECTION("until a reply comes") {
    auto reply = packet(1);
    CHECK_FALSE(replies.arrived(second, reply));
  }
  SECTION("until the reply comes to what was given up") {
    CHECK_FALSE(replies.given_up(first, lease));
    CHECK_FALSE(replies.begins(third, 2));
    auto reply = packet(1);
    CHECK(replies.arrived(first, reply) == lease);
    replies.given_back(first);
  }
  SECTION("until one turns out not to have been sent") { CHECK_FALSE(replies.given_up(first, 0)); }
  CHECK(replies.begins(third, 2));
  CHECK_FALSE(replies.given_up(urgent, 0));  // it had not begun, so that makes no room
  CHECK_FALSE(replies.begins(replies.asked(), 2));
  CHECK(replies.begins(replies.asked(), 3));
}

TEST_CASE("a request that was never sent gets no reply") {
  Replies replies;
  const auto number = replies.asked();
  CHECK_FALSE(replies.given_up(number, 0));
  auto reply = packet(1);
  CHECK_FALSE(replies.arrived(number, reply));
  CHECK_FALSE(replies.taken(number));
}

}  // namespace
