// Lanes that fail, hang or come too late. Their op has one outcome on every seat, in time. Memory that a lane may still
// touch stays as it is until the lane is quiet.
#include <catch2/catch.hpp>

#include <algorithm>

#include "client.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;
using muster::Error;
using muster::ipc::Kind;
using std::chrono::seconds;

namespace {

const Error broken(Code::failed, "the lane has failed");
constexpr std::size_t floats = 1 << 17;
constexpr std::uint64_t bytes = floats * sizeof(float);

/// Two ranks whose allreduce is with the lane.
struct WithLane : TwoRanks {
  WithLane() {
    world.outside.jobs.hold = true;
    first_input = seal(first, 1.0F);
    second_input = seal(second, 2.0F);
    begin(seconds(30));
  }
  static ipc::ObjectId seal(TestClient& client, float value) {
    return client.seal(client.lease(1 << 20), 0, std::vector<float>(floats, value));
  }
  void begin(Duration timeout) {
    first_work = first.contribute(Kind::allreduce, {first_input}, 0, timeout);
    second_work = second.contribute(Kind::allreduce, {second_input}, 0, timeout);
    job = world.outside.jobs.latest;
  }
  TestLane& lane() { return world.outside.jobs; }
  void check_both_failed(Code code) {
    REQUIRE(first.failed(first_work));
    REQUIRE(second.failed(second_work));
    CHECK(first.failed(first_work)->code() == code);
    CHECK(second.failed(second_work)->message() == first.failed(first_work)->message());
    check_told_once();
  }
  void check_told_once() {
    for (auto* client : {&first, &second})
      CHECK(client->count(ipc::CompletionType::done) + client->count(ipc::CompletionType::failed) == 1);
  }
  /// The memory of the result is taken.
  [[nodiscard]] bool results_are_kept() { return NodeAudit(world.node).result_bytes_used() >= bytes; }

  ipc::ObjectId first_input;
  ipc::ObjectId second_input;
  ipc::WorkId first_work;
  ipc::WorkId second_work;
  JobId job = 0;
};

}  // namespace

TEST_CASE_METHOD(WithLane, "a lane is told the earliest deadline of the ranks") {
  CHECK(lane().deadlines.back() == world.now + seconds(30));
}

TEST_CASE_METHOD(WithLane, "a job that fails fails its op on every seat, and the next op runs") {
  lane().fail(job, broken);
  check_both_failed(Code::failed);
  CHECK_FALSE(results_are_kept());
  begin(seconds(30));
  lane().finish(job);
  CHECK(first.done(first_work));
  CHECK(second.done(second_work));
}

TEST_CASE_METHOD(WithLane, "memory that a failed job may still touch is kept until its lane is quiet") {
  lane().fail_and_run_on(job, broken);
  check_both_failed(Code::failed);
  first.record(ipc::SubmissionType::release, ipc::Release{{first_input}});
  CHECK(results_are_kept());
  CHECK(first.count(ipc::CompletionType::object_gone) == 0);
  // Another op gets other memory, whatever the lane still writes.
  const auto other = first.contribute(Kind::allreduce, {seal(first, 5.0F)});
  second.contribute(Kind::allreduce, {seal(second, 6.0F)});
  lane().finish(lane().latest);
  lane().become_quiet(job);
  const auto done = first.done(other);
  REQUIRE(done);
  const auto object = NodeAudit(world.node).held_object(first.id(), done->items.front().object);
  float value = 0;
  std::memcpy(&value, host_address(object->place(0)), sizeof value);
  CHECK(value == 11.0F);
  CHECK(first.count(ipc::CompletionType::object_gone) == 1);
}

TEST_CASE_METHOD(WithLane, "a lane that hangs is cancelled at the op's deadline, which is the outcome") {
  CHECK(world.node.next_deadline() <= world.now + seconds(30));
  world.advance(seconds(30) - Duration(1));
  CHECK(first.count(ipc::CompletionType::failed) == 0);
  world.advance(Duration(1));
  check_both_failed(Code::timeout);
  CHECK(first.failed(first_work)->message().find("allreduce #0") != std::string::npos);
  CHECK(lane().jobs.at(job).cancelled);
  CHECK(results_are_kept());
  SECTION("it finishes too late") { lane().finish(job); }
  SECTION("it fails too late") { lane().fail(job, broken); }
  SECTION("it fails too late, and is quiet later") {
    lane().fail_and_run_on(job, broken);
    CHECK(results_are_kept());
    lane().become_quiet(job);
  }
  CHECK_FALSE(results_are_kept());
  check_told_once();
  CHECK(world.node.ops_in_flight() == 0);
}

TEST_CASE_METHOD(WithLane, "failed ops are over for their group, which goes on while a lane hangs") {
  world.advance(seconds(30));
  const auto next = first.contribute(Kind::barrier);
  second.contribute(Kind::barrier);
  CHECK(first.done(next));
  first.die();
  second.die();
  CHECK(results_are_kept());
  lane().finish(job);
  CHECK_FALSE(results_are_kept());
  CHECK(NodeAudit(world.node).left_over().empty());
}

TEST_CASE_METHOD(WithLane, "ranks that die while a lane works leave nothing behind") {
  first.die();
  second.die();
  SECTION("it finishes") { lane().finish(job); }
  SECTION("it fails") { lane().fail(job, broken); }
  SECTION("it fails and is quiet later") {
    lane().fail_and_run_on(job, broken);
    lane().become_quiet(job);
  }
  SECTION("it is too late") {
    world.advance(seconds(31));
    lane().finish(job);
  }
  CHECK(NodeAudit(world.node).left_over().empty());
}

TEST_CASE_METHOD(WithLane, "a job is cancelled when nobody is left who would be told its outcome") {
  first.die();
  CHECK_FALSE(lane().jobs.at(job).cancelled);
  second.die();
  while (world.node.goes_on()) world.go_on();
  CHECK(lane().jobs.at(job).cancelled);
  lane().finish(job);
  CHECK(NodeAudit(world.node).left_over().empty());
}
