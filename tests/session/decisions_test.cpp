// A decider that answers late, refuses, and answers in another order than it was asked. Each op has one outcome, which
// the decider determines, and epochs get their numbers from the decider.
#include <catch2/catch.hpp>

#include <cstring>
#include <iterator>

#include "client.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;
using muster::Error;
using muster::ipc::Kind;
using std::chrono::seconds;

namespace {

const Error refused(Code::no_quorum, "the group's leader is gone");

/// Two ranks whose decider answers only when the test says so.
struct Undecided : TwoRanks {
  Undecided() { decider().late = decider().hold = decider().skips_epochs = true; }
  TestDecider& decider() { return world.outside.decisions; }
  TestDecider::One asked(std::size_t number) {
    return std::next(decider().asked.begin(), static_cast<std::ptrdiff_t>(number));
  }
  void agree(std::size_t number) {
    decider().agree(asked(number));
    world.outside.jobs.end_all();
  }
  [[nodiscard]] std::size_t outcomes(TestClient& client) {
    return client.count(ipc::CompletionType::done) + client.count(ipc::CompletionType::failed);
  }
  static ipc::ObjectId seal(TestClient& client, float value) { return client.seal(client.lease(4096), 0, {value}); }
  float value_of(TestClient& client, ipc::WorkId work) {
    const auto done = client.done(work);
    if (!done) throw std::runtime_error("not done");
    const auto object = NodeAudit(world.node).held_object(client.id(), done->items.front().object);
    float value = 0;
    std::memcpy(&value, host_address(object->place(0)), sizeof value);
    return value;
  }
};

}  // namespace

TEST_CASE_METHOD(Undecided, "an op begins when it is decided, and not before") {
  const auto work = first.contribute(Kind::barrier);
  CHECK(decider().asked.empty());  // the ranks have not agreed yet
  second.contribute(Kind::barrier);
  REQUIRE(decider().asked.size() == 1);
  CHECK(decider().asked.front().kind == Kind::barrier);
  CHECK(outcomes(first) + outcomes(second) == 0);
  agree(0);
  CHECK(first.done(work));
  CHECK(outcomes(first) + outcomes(second) == 2);
}

TEST_CASE_METHOD(Undecided, "an op that is refused fails on every seat, and the next one runs") {
  const auto work = first.contribute(Kind::allreduce, {seal(first, 1)});
  const auto other = second.contribute(Kind::allreduce, {seal(second, 2)});
  decider().refuse(asked(0), refused);
  REQUIRE(first.failed(work));
  REQUIRE(second.failed(other));
  CHECK(first.failed(work)->code() == Code::no_quorum);
  CHECK(second.failed(other)->message() == first.failed(work)->message());
  const auto next = first.contribute(Kind::barrier);
  second.contribute(Kind::barrier);
  agree(0);
  CHECK(first.done(next));
}

TEST_CASE_METHOD(Undecided, "ops that are decided in another order keep their own inputs and outcomes") {
  std::vector<ipc::WorkId> works;
  for (const float value : {1.0F, 10.0F, 100.0F}) {
    works.push_back(first.contribute(Kind::allreduce, {seal(first, value)}));
    second.contribute(Kind::allreduce, {seal(second, value)});
  }
  agree(2);
  CHECK(value_of(first, works[2]) == 200.0F);
  CHECK(outcomes(first) == 1);
  decider().refuse(asked(0), refused);
  CHECK(first.failed(works[0]));
  agree(0);
  CHECK(value_of(first, works[1]) == 20.0F);
  CHECK(outcomes(first) == 3);
  CHECK(outcomes(second) == 3);
}

TEST_CASE_METHOD(Undecided, "no deadline ends an undecided op: other nodes may have begun it") {
  const auto work = first.contribute(Kind::barrier, {}, 0, seconds(1));
  second.contribute(Kind::barrier, {}, 0, seconds(1));
  world.advance(seconds(100));
  CHECK(outcomes(first) + outcomes(second) == 0);
  agree(0);
  CHECK(first.done(work));
}

TEST_CASE_METHOD(Undecided, "an op whose ranks die while it is undecided leaves nothing behind") {
  const auto work = first.contribute(Kind::allreduce, {seal(first, 1)});
  second.contribute(Kind::allreduce, {seal(second, 2)});
  second.die();
  SECTION("one is left") {
    agree(0);
    CHECK(value_of(first, work) == 3.0F);
    first.die();
  }
  SECTION("none is left") {
    first.die();
    agree(0);
  }
  SECTION("none is left, and it is refused") {
    first.die();
    decider().refuse(asked(0), refused);
  }
  while (world.node.goes_on()) world.go_on();
  CHECK(NodeAudit(world.node).left_over().empty());
}

TEST_CASE_METHOD(Undecided, "a reform begins the epoch that the decider numbers") {
  const auto reform = first.contribute(Kind::reform);
  second.contribute(Kind::reform);
  REQUIRE(decider().asked.size() == 1);
  SECTION("it is decided") {
    agree(0);
    const auto done = first.done(reform);
    REQUIRE(done);
    CHECK(done->epoch == 8);
    CHECK(second.groups().groups()->Get(0)->epoch() == 8);
    // Everything of the epoch before is over.
    const auto late = first.contribute(Kind::barrier);
    REQUIRE(first.failed(late));
    CHECK(first.failed(late)->code() == Code::peer_lost);
    first.epoch = second.epoch = done->epoch;
    const auto next = first.contribute(Kind::barrier);
    second.contribute(Kind::barrier);
    agree(0);
    CHECK(first.done(next));
  }
  SECTION("its number is more than an epoch can have, and the epoch goes on") {
    const auto decided = std::move(decider().asked.front().decided);
    decider().asked.pop_front();
    decided({{}, Group::epoch_max + 1});
    REQUIRE(first.failed(reform));
    CHECK(first.failed(reform)->code() == Code::quota_exceeded);
    const auto next = first.contribute(Kind::barrier);
    second.contribute(Kind::barrier);
    agree(0);
    CHECK(first.done(next));
  }
  SECTION("it is refused, and the epoch goes on") {
    decider().refuse(asked(0), refused);
    CHECK(first.failed(reform));
    const auto next = first.contribute(Kind::barrier);
    second.contribute(Kind::barrier);
    agree(0);
    CHECK(first.done(next));
  }
}

TEST_CASE_METHOD(Undecided, "when the last member goes, newcomers wait until their epoch's number is decided") {
  second.die();  // the group's policy is fail, so a process that joins now is a newcomer
  TestClient third(world, 3);
  TestClient fourth(world, 4);
  REQUIRE(third.join("g", 1, 2));
  const auto early = third.contribute(Kind::barrier);
  first.die();
  REQUIRE(decider().asked.size() == 1);
  CHECK(decider().asked.front().about == Proposal::About::epoch);
  SECTION("it begins with the decided number, whatever number the newcomers assumed") {
    REQUIRE(fourth.join("g", 0, 2));
    agree(0);
    CHECK(third.groups().groups()->Get(0)->epoch() == 8);
    fourth.contribute(Kind::barrier);
    agree(0);
    CHECK(third.done(early));
  }
  SECTION("nobody is left to begin it") {
    third.die();
    CHECK(fourth.groups().total() == 0);
    agree(0);
    CHECK(fourth.groups().total() == 0);
    fourth.die();
    while (world.node.goes_on()) world.go_on();
    CHECK(NodeAudit(world.node).left_over().empty());
  }
}

TEST_CASE_METHOD(Undecided, "ops that wait in an epoch end when nobody is left to begin the next") {
  first.join("s", 0, 3, muster::OnLoss::shrink);  // rank 2 never comes
  second.join("s", 1, 3, muster::OnLoss::shrink);
  first.contribute(Kind::barrier);
  second.leave();
  TestClient third(world, 3);
  REQUIRE(third.join("s", 1, 3, muster::OnLoss::shrink));
  first.die();
  CHECK(decider().asked.size() == 1);
  CHECK(world.node.ops_in_flight() == 1);
  third.die();
  CHECK(world.node.ops_in_flight() == 0);
  agree(0);
  second.die();
  CHECK(NodeAudit(world.node).left_over().empty());
}

TEST_CASE_METHOD(Undecided, "undecided ops fail when the daemon ends, and an answer comes too late") {
  const auto work = first.contribute(Kind::barrier);
  second.contribute(Kind::barrier);
  world.node.shut_down("test", world.now);
  REQUIRE(first.failed(work));
  CHECK(first.failed(work)->code() == Code::daemon_unavailable);
  agree(0);
  CHECK(outcomes(first) == 1);
}

TEST_CASE_METHOD(Undecided, "a split that is refused makes no groups") {
  const auto work = first.contribute(Kind::split);
  second.contribute(Kind::split);
  decider().refuse(asked(0), refused);
  REQUIRE(first.failed(work));
  CHECK(first.groups().total() == 1);
}
