// Calls with a key, sends, receives and reforms meet the oldest op of their match that their rank has not come to.
#include <catch2/catch.hpp>

#include <algorithm>
#include <iterator>
#include <random>

#include "collective/matched_ops.hpp"
#include "inputs.hpp"

using muster::ipc::Kind;
using musterd::Contribution;
using musterd::MatchedOps;
using musterd::PendingOp;
using musterd::testing::contribution;

namespace {

Contribution keyed(int rank, std::string key) {
  auto made = contribution(rank, Kind::barrier, 0);
  made.key = std::move(key);
  return made;
}

/// The op that a call meets, and that it arrives in.
PendingOp& call(MatchedOps& ops, const Contribution& made) {
  PendingOp& op = ops.find_or_add(made);
  if (op.awaited == 0) op.awaited = op.arrived.size();  // it is new
  op.arrive(made);
  return op;
}

}  // namespace

TEST_CASE("equal keys meet, and a key that is used again begins the next op") {
  MatchedOps ops(3);
  CHECK(ops.begins_op(keyed(0, "a")));
  PendingOp& first = call(ops, keyed(0, "a"));
  CHECK(first.arrived.size() == 3);
  CHECK(ops.begins_op(keyed(0, "a")));
  CHECK_FALSE(ops.begins_op(keyed(1, "a")));
  PendingOp& second = call(ops, keyed(0, "a"));
  CHECK(&second != &first);
  CHECK(&call(ops, keyed(1, "a")) == &first);
  CHECK(&call(ops, keyed(1, "a")) == &second);
  CHECK(&call(ops, keyed(1, "b")) != &first);
  CHECK(first.match->key == "a");
  CHECK(ops.find(musterd::match_of(keyed(2, "a")))->size() == 2);
}

TEST_CASE("a send meets its receive, in the order of calls") {
  MatchedOps ops(2);
  const auto end = [](int rank, Kind kind) {
    auto made = contribution(rank, kind, 0);
    made.root = 1 - rank;
    return made;
  };
  PendingOp& first = call(ops, end(0, Kind::send));
  PendingOp& second = call(ops, end(0, Kind::send));
  CHECK(first.arrived.size() == 2);
  CHECK(&call(ops, end(1, Kind::recv)) == &first);
  CHECK(&call(ops, end(1, Kind::recv)) == &second);
  CHECK(ops.begins_op(end(1, Kind::send)));
}

TEST_CASE("nothing is left of a match without ops") {
  MatchedOps ops(2);
  PendingOp& first = call(ops, keyed(0, "a"));
  PendingOp& second = call(ops, keyed(0, "a"));
  const auto match = musterd::match_of(keyed(0, "a"));
  ops.remove(first);
  REQUIRE(ops.find(match));
  CHECK(&ops.find(match)->front() == &second);
  ops.remove(second);
  CHECK_FALSE(ops.find(match));
  CHECK(ops.empty());
  call(ops, keyed(0, "b"));
  ops.find(musterd::match_of(keyed(0, "b")))->clear();
  ops.tidy(musterd::match_of(keyed(0, "b")));
  CHECK(ops.empty());
}

TEST_CASE("ops can be removed one by one until there are none") {
  MatchedOps ops(2);
  for (const char* key : {"b", "a", "a"}) call(ops, keyed(0, key));
  call(ops, contribution(1, Kind::reform, 0));
  int removed = 0;
  for (; !ops.empty(); ++removed) {
    CHECK(ops.first().arrived.size() == 2);
    ops.remove_first();
  }
  CHECK(removed == 4);
}

TEST_CASE("whatever order ranks call in, each call meets the oldest op that its rank has not come to") {
  constexpr int ranks = 3;
  std::mt19937 random(7);
  MatchedOps ops(ranks);
  const auto match = musterd::match_of(keyed(0, "a"));
  for (int step = 0; step < 5000; ++step) {
    auto* there = ops.find(match);
    // Ranks run ahead of each other for a while, and now and then an op goes from anywhere in the line.
    const auto rank = static_cast<int>((random() + static_cast<unsigned>(step) / 50) % ranks);
    const auto index = static_cast<std::size_t>(rank);
    const PendingOp* expected = nullptr;
    std::size_t before = 0;
    if (there) {
      before = there->size();
      const auto oldest = std::ranges::find_if(*there, [&](const PendingOp& op) { return !op.arrived[index]; });
      if (oldest != there->end()) expected = &*oldest;
    }
    CHECK(ops.begins_op(keyed(rank, "a")) == (expected == nullptr));
    const PendingOp& met = call(ops, keyed(rank, "a"));
    if (expected) REQUIRE(&met == expected);
    else REQUIRE(ops.find(match)->size() == before + 1);
    if (random() % 4 == 0 && before > 0) {
      const auto gone = std::next(there->begin(), static_cast<std::ptrdiff_t>(random() % before));
      ops.remove(*gone);
    }
  }
}
