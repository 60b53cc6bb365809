// What one pending op answers, and which contributions meet in it.
#include <catch2/catch.hpp>

#include "collective/pending_op.hpp"
#include "ops.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::ipc::Kind;

namespace {

Contribution pair(int rank, Kind kind, int peer, std::int64_t tag = 0, std::string key = {}) {
  auto made = contribution(rank, kind, 0);
  made.root = peer;
  made.tag = tag;
  made.key = std::move(key);
  return made;
}

Contribution keyed(int rank, std::string key) {
  auto made = contribution(rank, Kind::barrier, 0);
  made.key = std::move(key);
  return made;
}

bool meet(const Contribution& a, const Contribution& b) {
  const Match one = match_of(a);
  const Match other = match_of(b);
  return !(one < other) && !(other < one);
}

/// An op of three ranks that waits for all that its match has.
PendingOp op_of(const Match& match) {
  PendingOp op;
  op.match = &match;
  op.arrived.resize(match.contributions_max(3));
  op.awaited = op.arrived.size();
  return op;
}

}  // namespace

TEST_CASE("a call without key is matched by order, unless it is a send, a receive or a reform") {
  CHECK(is_by_order(contribution(0, Kind::allreduce, 0)));
  CHECK_FALSE(is_by_order(keyed(0, "key")));
  CHECK_FALSE(is_by_order(pair(0, Kind::send, 1)));
  CHECK_FALSE(is_by_order(pair(0, Kind::recv, 1)));
  CHECK_FALSE(is_by_order(contribution(0, Kind::reform, 0)));
}

TEST_CASE("calls meet by key, by the two ends of a pair, and as reforms") {
  CHECK(meet(keyed(0, "a"), keyed(1, "a")));
  CHECK_FALSE(meet(keyed(0, "a"), keyed(1, "b")));
  CHECK(meet(pair(0, Kind::send, 1, 5, "a"), pair(1, Kind::recv, 0, 5, "a")));
  CHECK_FALSE(meet(pair(0, Kind::send, 1), pair(1, Kind::send, 0)));
  CHECK_FALSE(meet(pair(0, Kind::send, 1), pair(1, Kind::recv, 2)));
  CHECK_FALSE(meet(pair(0, Kind::send, 1, 5), pair(1, Kind::recv, 0, 6)));
  CHECK_FALSE(meet(pair(0, Kind::send, 1, 5, "a"), pair(1, Kind::recv, 0, 5, "b")));
  CHECK_FALSE(meet(pair(0, Kind::send, 0, 0, "a"), keyed(0, "a")));
  CHECK(meet(contribution(0, Kind::reform, 0), contribution(2, Kind::reform, 0)));
}

TEST_CASE("an op that is matched by order is owed by ranks that have not come so far") {
  PendingOp op;
  op.sequence = 7;
  CHECK(op.owes(1, 7) == 1);
  CHECK_FALSE(op.has_come(1, 7));
  CHECK(op.owes(1, 8) == 0);
  CHECK(op.has_come(1, 8));
}

TEST_CASE("an op with a match is owed by ranks that have not arrived, wherever they are in the order") {
  const Match match = match_of(keyed(0, "key"));
  PendingOp op = op_of(match);
  op.arrive(keyed(1, "key"));
  CHECK(op.awaited == 2);
  for (const int rank : {0, 1, 2}) {
    INFO("rank " << rank);
    CHECK(op.owes(rank, 99) == (rank == 1 ? 0 : 1));
    CHECK(op.has_come(rank, 99) == (rank == 1));
  }
}

TEST_CASE("a pair is owed by its ends only, and by a rank that sends to itself twice") {
  const Match between_two = match_of(pair(0, Kind::send, 2));
  PendingOp op = op_of(between_two);
  CHECK(op.awaited == 2);
  op.arrive(pair(2, Kind::recv, 0));
  CHECK(op.owes(0, 0) == 1);
  CHECK(op.owes(1, 0) == 0);
  CHECK(op.owes(2, 0) == 0);
  CHECK(op.has_come(2, 0));
  CHECK_FALSE(op.has_come(1, 0));

  const Match to_itself = match_of(pair(1, Kind::send, 1));
  PendingOp alone = op_of(to_itself);
  CHECK(alone.owes(1, 0) == 2);
  alone.arrive(pair(1, Kind::recv, 1));
  CHECK(alone.owes(1, 0) == 1);
  CHECK(alone.has_come(1, 0));
}

TEST_CASE("an op needs its root, its sender and its receiver in person") {
  PendingOp gathers;
  auto first = contribution(0, Kind::gather, 0);
  first.root = 2;
  gather(gathers, 1, std::move(first));
  CHECK(gathers.needs_in_person(2));
  CHECK_FALSE(gathers.needs_in_person(1));

  PendingOp barrier;
  gather(barrier, 2, contribution(0, Kind::barrier, 0));
  CHECK_FALSE(barrier.needs_in_person(0));

  const Match match = match_of(pair(0, Kind::send, 1));
  PendingOp sends = op_of(match);
  CHECK(sends.needs_in_person(0));
  CHECK(sends.needs_in_person(1));
  CHECK_FALSE(sends.needs_in_person(2));
}

TEST_CASE("an op is done with once it is over and nobody comes to it any more") {
  PendingOp op;
  op.awaited = 1;
  gather(op, 1, contribution(0, Kind::barrier, 0));
  CHECK_FALSE(op.is_done_with());
  op.awaited = 0;
  CHECK_FALSE(op.is_done_with());
  op.op.reset();
  CHECK(op.is_done_with());
  op.awaited = 1;
  CHECK_FALSE(op.is_done_with());
}

TEST_CASE("the end of a pair that has come is named as it was called") {
  const Match match = match_of(pair(0, Kind::send, 2, 5, "key"));
  PendingOp op = op_of(match);
  gather(op, 1, pair(2, Kind::recv, 0, 5));
  CHECK(call_text(op.pair_call()) == "recv from rank 0 with tag 5 and key 'key'");
}
