// The life of an op: it opens with its first contribution, starts or fails, and is kept while somebody may come to it.
#include <catch2/catch.hpp>

#include "collective/pending_ops.hpp"
#include "inputs.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;
using muster::ipc::Kind;

namespace {

/// The pending ops of three ranks. Two failures are remembered.
struct Group {
  Members members{3, std::vector{0, 1, 2}};
  PendingOps ops{members, 1, 2, std::size_t{1} << 20};
  std::vector<Action> actions;

  PendingOp& give(Contribution made) {
    PendingOp* op = ops.find_or_open(made, at_ms(0));
    REQUIRE(op);
    REQUIRE(op->gathering());
    op->op->contributions.reserve(3);
    ops.take(*op, std::move(made));
    return *op;
  }
  PendingOp& barrier(int rank, std::string key = {}) {
    auto made = contribution(rank, Kind::barrier, static_cast<Ticket>(rank) + 1);
    made.key = std::move(key);
    return give(std::move(made));
  }
  PendingOp& reform(int rank) { return give(contribution(rank, Kind::reform, 0)); }
  /// A rank comes to an op that is over.
  void come_late(int rank, std::string key = {}) {
    auto made = contribution(rank, Kind::barrier, 0);
    made.key = std::move(key);
    PendingOp* op = ops.find_or_open(made, at_ms(0));
    REQUIRE((!op || !op->gathering()));
    ops.arrive(op, made);
    if (op) ops.retire(*op);
  }
  void fail(PendingOp& op, Code code = Code::timeout) { ops.fail(op, {code, "message"}, actions); }
};

}  // namespace

TEST_CASE("a new op waits for all who may come") {
  Group group;
  group.members.withdraw(2, {"died", {}}, Members::Standing::vacant);
  auto send = contribution(0, Kind::send, 0);
  send.root = 9;  // there is no such rank
  CHECK(group.barrier(0).awaited == 2);
  CHECK(group.barrier(0, "key").awaited == 2);
  CHECK(group.reform(0).awaited == 1);
  const PendingOp& alone = group.give(std::move(send));
  CHECK(alone.awaited == 0);
  CHECK(group.ops.missing(group.barrier(0)) == std::vector{1, 2});
  CHECK(group.ops.missing(group.reform(0)) == std::vector{1});
}

TEST_CASE("an op that starts has its contributions in rank order, and is gone") {
  Group group;
  group.barrier(2, "key");
  group.barrier(0, "key");
  PendingOp& op = group.barrier(1, "key");
  group.ops.start(op, group.actions);
  group.ops.retire(op);
  REQUIRE(group.actions.size() == 1);
  const auto& started = *std::get<StartOp>(group.actions.front()).op;
  CHECK(started.id == 1);
  CHECK(started.key == "key");
  CHECK(started.world_size == 3);
  for (int rank = 0; rank < 3; ++rank) CHECK(started.contributions.at(static_cast<std::size_t>(rank)).rank == rank);
  CHECK(group.ops.empty());
  CHECK(group.ops.gathering().size() == 0);
}

TEST_CASE("an op that failed is kept until all have come") {
  Group group;
  PendingOp& op = group.barrier(1);
  group.fail(op);
  REQUIRE(group.actions.size() == 1);
  CHECK(std::get<FailOp>(group.actions.front()).tickets == std::vector<Ticket>{2});
  CHECK(op.failure->error().message() == "message");
  CHECK(group.ops.gathering().size() == 0);
  group.ops.retire(op);
  CHECK_FALSE(group.ops.empty());
  group.come_late(0);
  CHECK_FALSE(group.ops.empty());
  group.come_late(2);
  CHECK(group.ops.empty());
}

TEST_CASE("an op whose first contribution does not come was never there") {
  Group group;
  for (const char* key : {"", "key"}) {
    auto made = contribution(0, Kind::barrier, 0);
    made.key = key;
    CHECK(group.ops.begins_op(made));
    PendingOp* op = group.ops.find_or_open(made, at_ms(0));
    CHECK_FALSE(group.ops.begins_op(contribution(1, Kind::barrier, 0)) == made.key.empty());
    group.ops.abandon(*op);
    CHECK(group.ops.empty());
    CHECK(group.ops.begins_op(made));
    CHECK(group.ops.ordered().position(0) == 0);
    CHECK_FALSE(group.ops.gathering().next_deadline());
  }
}

TEST_CASE("an old failure in the order leaves its op there, and one with a key goes whole") {
  Group group;
  PendingOp& in_order = group.barrier(0);
  group.fail(in_order, Code::denied);
  group.fail(group.barrier(0, "key"));
  group.fail(group.barrier(0));
  group.fail(group.barrier(0));
  group.ops.forget_old_failures();
  CHECK_FALSE(in_order.failure);
  CHECK(in_order.code() == Code::denied);
  CHECK(group.ops.ordered().size() == 3);
  auto late = contribution(1, Kind::barrier, 0);
  late.key = "key";
  CHECK(group.ops.begins_op(late));
}

TEST_CASE("a failure that all have come to is not remembered any more") {
  Group group;
  PendingOp& first = group.barrier(0);
  group.fail(first);
  group.fail(group.barrier(0, "key"));
  for (const int rank : {1, 2}) {
    group.come_late(rank);
    group.come_late(rank, "key");
  }
  CHECK(group.ops.empty());
  PendingOp& second = group.barrier(0);
  group.fail(second);
  PendingOp& third = group.barrier(0);
  group.fail(third);
  group.ops.forget_old_failures();
  CHECK(second.failure);
  CHECK(third.failure);
}

TEST_CASE("what gathers first under a key can be taken back, and its failures stay") {
  Group group;
  group.fail(group.barrier(0, "key"));
  group.barrier(0, "key");
  const PendingOp& twice = group.barrier(0, "key");
  group.barrier(0, "other");
  const auto taken = group.ops.take_retries("key");
  REQUIRE(taken.size() == 1);
  CHECK(taken.front().rank == 0);
  CHECK(twice.gathering());
  CHECK(group.ops.gathering().size() == 2);
  auto late = contribution(1, Kind::barrier, 0);
  late.key = "key";
  PendingOp* failed = group.ops.find_or_open(late, at_ms(0));
  CHECK(failed->failure);
  CHECK(group.ops.take_retries("none").empty());
}

TEST_CASE("a split is never taken back") {
  Group group;
  auto split = contribution(0, Kind::split, 0);
  split.key = "key";
  group.give(std::move(split));
  CHECK(group.ops.take_retries("key").empty());
  CHECK(group.ops.gathering().size() == 1);
}

TEST_CASE("ids of ops stay in their epoch when their numbers come around") {
  const OpId last = first_op_of(7) - 2;  // of the epoch before
  CHECK(epoch_of(last) == 6);
  CHECK(next_op(last) == first_op_of(6));
  CHECK(next_op(first_op_of(7)) == first_op_of(7) + 1);
}

TEST_CASE("ops that have not learned of a loss come first") {
  Group group;
  PendingOp& first = group.barrier(0, "a");
  PendingOp& second = group.barrier(0, "b");
  CHECK_FALSE(group.ops.behind());
  group.members.withdraw(2, {"died", {}}, Members::Standing::gone);
  REQUIRE(group.ops.behind() == &first);
  const auto learn = [&](PendingOp& op) {
    op.losses_known = group.members.gone().size();
    group.ops.learned(op);
  };
  learn(first);
  CHECK(group.ops.behind() == &second);
  learn(second);
  CHECK_FALSE(group.ops.is_behind());
  PendingOp& third = group.barrier(0, "c");
  CHECK(third.losses_known == 1);
  CHECK_FALSE(group.ops.is_behind());
}

TEST_CASE("reforms that are over go when nobody comes to them any more") {
  Group group;
  PendingOp& failed = group.reform(0);
  PendingOp& gathers = group.reform(0);
  group.fail(failed);
  group.ops.retire_reforms();
  CHECK(group.ops.reforms()->size() == 2);
  failed.awaited = gathers.awaited = 0;
  group.ops.retire_reforms();
  REQUIRE(group.ops.reforms()->size() == 1);
  CHECK(&group.ops.reforms()->front() == &gathers);
}

TEST_CASE("all ops can be dropped, those in the order first") {
  Group group;
  group.barrier(0, "key");
  PendingOp& first = group.barrier(0);
  group.barrier(0);
  group.fail(first);
  int dropped = 0;
  for (; !group.ops.empty(); ++dropped) {
    PendingOp& op = group.ops.oldest();
    CHECK((op.match != nullptr) == (dropped == 2));
    if (op.gathering()) group.fail(op);
    group.ops.drop_oldest();
  }
  CHECK(dropped == 3);
  group.ops.forget_old_failures();
}
