// Ops that gather are found by deadline, by handle and by who owes them, whatever begins and ends.
#include <catch2/catch.hpp>

#include <list>
#include <random>

#include "collective/gathering_ops.hpp"
#include "ops.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::ipc::Kind;

namespace {

constexpr int ranks = 4;
constexpr std::size_t each = 48;  // bytes that name an op without a key

/// Ops of a group, all matched by order or sends to a rank, that begin with one contribution.
struct Group {
  GatheringOps gathering{ranks};
  std::list<Match> matches;
  std::list<PendingOp> ops;
  OpId last_id = 0;

  PendingOp& begin(Contribution first) {
    PendingOp& op = ops.emplace_back();
    if (!is_by_order(first)) {
      op.match = &matches.emplace_back(match_of(first));
      op.arrived.resize(op.match->contributions_max(ranks));
      op.arrived[op.match->index_of(first)] = true;
      if (op.match->of == Match::Of::pair) op.peer = first.root;
    }
    op.sequence = last_id++;
    const int rank = first.rank;
    gather(op, last_id, std::move(first), "op " + std::to_string(last_id));
    gathering.begin(op);
    gathering.add_contribution(op, rank);
    return op;
  }
  PendingOp& begin(int rank, int deadline_ms = 1000) {
    return begin(contribution(rank, Kind::barrier, 0, deadline_ms));
  }
  PendingOp& send(int rank, int peer) {
    auto made = contribution(rank, Kind::send, 0);
    made.root = peer;
    return begin(std::move(made));
  }
  void come(PendingOp& op, int rank) {
    gathering.add_contribution(op, rank);
    op.op->contributions.push_back(contribution(rank, Kind::barrier, 0));
  }
};

}  // namespace

TEST_CASE("the op with the earliest deadline is next, also if a later contribution has an earlier one") {
  Group group;
  CHECK_FALSE(group.gathering.next());
  CHECK_FALSE(group.gathering.next_deadline());
  PendingOp& late = group.begin(0, 300);
  PendingOp& soon = group.begin(0, 100);
  PendingOp& same = group.begin(0, 100);
  CHECK(group.gathering.next() == &soon);
  CHECK(group.gathering.next_deadline() == at_ms(100));
  group.gathering.end(soon);
  CHECK(group.gathering.next() == &same);
  group.gathering.hasten(late, at_ms(400));
  CHECK(late.deadline == at_ms(300));
  CHECK(group.gathering.next() == &same);
  group.gathering.hasten(late, at_ms(50));
  CHECK(group.gathering.next() == &late);
  CHECK(late.deadline == at_ms(50));
}

TEST_CASE("a handle finds its op until that is over") {
  Group group;
  PendingOp& barrier = group.begin(0);
  PendingOp& send = group.send(0, 2);
  const auto handle = barrier.handle();
  CHECK(send.handle().peer == 2);
  CHECK(group.gathering.find(handle) == &barrier);
  CHECK(group.gathering.find(send.handle()) == &send);
  CHECK(group.gathering.size() == 2);
  group.gathering.end(barrier);
  CHECK_FALSE(group.gathering.find(handle));
  CHECK_FALSE(group.gathering.find({}));
  CHECK(group.gathering.size() == 1);
}

TEST_CASE("a rank is told the ops that it owes, and no others") {
  Group group;
  group.begin(0);
  group.send(0, 2);
  group.send(0, 9);  // there is no such rank
  auto keyed = contribution(1, Kind::allreduce, 0);
  keyed.key = "key";
  group.begin(std::move(keyed));
  const auto owed = group.gathering.owed(2, 0);
  REQUIRE(owed.size() == 3);
  CHECK(owed[0].sequence == 0);
  CHECK(owed[0].kind == Kind::barrier);
  CHECK(owed[1].key == "key");
  CHECK(owed[2].kind == Kind::recv);
  CHECK(group.gathering.owed_bytes(2) == 3 * each + 3);
  // Rank 1 has come to the op with the key.
  CHECK(group.gathering.owed(1, 0).size() == 1);
  CHECK(group.gathering.owed_bytes(1) == each);
  // Rank 0 has made the first call in the order.
  CHECK(group.gathering.owed(0, 1).size() == 1);
  CHECK(group.gathering.owed_bytes(0) == each + 3);
}

TEST_CASE("the op that a rank waits in is one that it has come to") {
  Group group;
  group.begin(0);
  CHECK(group.gathering.where_it_waits(0, 1) == "op 1");
  CHECK(group.gathering.where_it_waits(1, 0).empty());
  group.send(1, 2);
  CHECK(group.gathering.where_it_waits(1, 0) == "send to rank 2 with tag 0");
  CHECK(group.gathering.where_it_waits(2, 0).empty());
}

TEST_CASE("counts agree with what gathers, whatever begins, comes and ends") {
  std::minstd_rand random(GENERATE(range(1u, 20u)));
  const auto below = [&](std::size_t limit) { return static_cast<std::size_t>(random() % limit); };
  Group group;
  std::vector<PendingOp*> there;
  for (int step = 0; step < 400; ++step) {
    const int rank = static_cast<int>(below(ranks));
    switch (below(4)) {
      case 0: there.push_back(&group.begin(rank, static_cast<int>(below(1000)))); break;
      case 1: there.push_back(&group.send(rank, static_cast<int>(below(ranks + 1)))); break;
      case 2:
        if (!there.empty() && !there.back()->match) group.come(*there.back(), rank);
        break;
      default:
        if (there.empty()) break;
        std::swap(there[below(there.size())], there.back());
        group.gathering.end(*there.back());
        there.back()->op.reset();
        there.pop_back();
    }
    REQUIRE(group.gathering.size() == there.size());
    for (int each_rank = 0; each_rank < ranks; ++each_rank) {
      std::size_t in_flight = 0;
      std::size_t bytes = 0;
      for (const PendingOp* op : there) {
        std::size_t came = 0;
        for (const auto& made : op->op->contributions) came += made.rank == each_rank ? 1 : 0;
        in_flight += came;
        if (op->peer == each_rank) bytes += each;
        else if (op->peer == PendingOp::everyone) bytes += each - came * each;  // may wrap around, as it is a sum
      }
      REQUIRE(group.gathering.in_flight(each_rank) == in_flight);
      REQUIRE(group.gathering.owed_bytes(each_rank) == bytes);
    }
    for (const PendingOp* op : there) {
      REQUIRE(group.gathering.find(op->handle()) == op);
      REQUIRE(group.gathering.next_deadline() <= op->deadline);
    }
  }
}
