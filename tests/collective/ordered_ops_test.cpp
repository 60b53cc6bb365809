// Calls without a key meet by their order, and no op is kept for longer than somebody may come to it.
#include <catch2/catch.hpp>

#include "collective/ordered_ops.hpp"

using musterd::Members;
using musterd::OrderedOps;
using musterd::PendingOp;

TEST_CASE("the n-th call of each rank meets the others' n-th") {
  OrderedOps ops(2);
  CHECK(ops.begins_op(0));
  PendingOp* first = ops.find_or_add(0);
  REQUIRE(first);
  CHECK(first->sequence == 0);
  CHECK(ops.size() == 1);
  ops.advance(0);
  CHECK(ops.position(0) == 1);
  PendingOp* second = ops.find_or_add(0);
  CHECK(second->sequence == 1);
  ops.advance(0);
  CHECK_FALSE(ops.begins_op(1));
  CHECK(ops.find_or_add(1) == first);
  ops.advance(1);
  CHECK(ops.find_or_add(1) == second);
  CHECK(ops.size() == 2);
}

TEST_CASE("an op that nobody took up is not there") {
  OrderedOps ops(2);
  CHECK(ops.find_or_add(0) != nullptr);
  ops.drop_newest();
  CHECK(ops.empty());
  CHECK(ops.begins_op(0));
  CHECK(ops.find_or_add(1)->sequence == 0);
}

TEST_CASE("a rank that is behind finds no op that was dropped, and then the next one") {
  OrderedOps ops(2);
  for (int call = 0; call < 3; ++call) {
    CHECK(ops.find_or_add(0) != nullptr);
    ops.advance(0);
  }
  ops.drop_oldest();
  ops.drop_oldest();
  CHECK(ops.begin() == 2);
  CHECK(ops.end() == 3);
  for (int call = 0; call < 2; ++call) {
    CHECK_FALSE(ops.begins_op(1));
    CHECK(ops.find_or_add(1) == nullptr);
    ops.advance(1);
  }
  CHECK(ops.find_or_add(1) == &ops.oldest());
  CHECK(ops.oldest().sequence == 2);
}

TEST_CASE("the slowest rank is one that may still come") {
  OrderedOps ops(4);
  Members members(4, std::vector{0, 1, 2});
  for (int call = 0; call < 5; ++call) ops.advance(0);
  for (int call = 0; call < 3; ++call) ops.advance(1);
  ops.advance(2);
  CHECK(ops.slowest_position(members) == 1);
  members.withdraw(2, {"died", {}}, Members::Standing::gone);
  CHECK(ops.slowest_position(members) == 3);
  members.withdraw(1, {"died", {}}, Members::Standing::vacant);
  CHECK(ops.slowest_position(members) == 3);
}
