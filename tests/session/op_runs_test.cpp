// What becomes of an op whose inputs have all come: over its own parts, without a node, a client or a socket.
#include <catch2/catch.hpp>

#include <cstring>

#include <muster/ipc/records.hpp>

#include "node_parts.hpp"
#include "session/op_runs.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;
using muster::ipc::CompletionType;
using muster::ipc::Kind;

namespace {

constexpr std::int64_t few = 100;
constexpr std::int64_t many = 200 << 10;  ///< floats: more than is done on the control thread

struct Running : NodeParts {
  explicit Running(Quota quota = memory_quota(64 * mebibyte)) : NodeParts(quota) {}
  OpCounts counts;
  TimePoint time = start;
  OpRuns runs{{settings, ledger, results, store, admission, clients, works, pressure, history, giver, retries, outside,
               counts, [](FunctionRef what) { what(); }, time}};

  /// A combine of two arrays of one client.
  OpPtr combine(std::int64_t floats, Duration timeout = std::chrono::seconds(30)) {
    if (!clients.find({1})) REQUIRE(clients.add({1}, {NodeParts::user, 1}, start));
    auto op = std::make_shared<Op>();
    op->id = ++last_;
    op->name = "allreduce #" + std::to_string(last_);
    op->world_size = 2;
    const Ticket ticket = works.add({{1}, {last_}, {}, nullptr, {}});
    for (int rank = 0; rank < 2; ++rank) {
      const auto side =
          lease_and_map(segments, {NodeParts::user, {1}}, static_cast<std::uint64_t>(floats) * sizeof(float));
      const std::vector<float> values(static_cast<std::size_t>(floats), static_cast<float>(rank + 1));
      std::memcpy(side.mapping.data(), values.data(), values.size() * sizeof(float));
      const auto object = try_seal({NodeParts::user, {1}}, array(side.segment->id(), 0, floats)).value();
      Contribution contribution;
      contribution.rank = rank;
      contribution.kind = Kind::allreduce;
      contribution.deadline = time + timeout;
      contribution.inputs.push_back({object, &object->manifest, {object->memories.data(), object->memories.size()}});
      contribution.ticket = ticket;
      op->contributions.push_back(std::move(contribution));
    }
    return op;
  }
  std::optional<muster::ipc::Done> done() {
    const auto told = NodeParts::done(1);
    return told.empty() ? std::nullopt : std::optional(told.front());
  }
  std::optional<muster::Error> failed() {
    const auto told = NodeParts::failed(1);
    return told.empty() ? std::nullopt : std::optional(told.front().error);
  }
  /// The first value of what was given.
  float value(const muster::ipc::Done& done) {
    const auto object = store.held(done.items.at(0).object, {NodeParts::user, {1}}).value();
    float value = 0;
    std::memcpy(&value, host_address(object->place(0)), sizeof value);
    return value;
  }

 private:
  std::uint64_t last_ = 0;
};

}  // namespace

TEST_CASE("a small op is done at once") {
  Running node;
  node.outside.jobs.apart = false;
  node.runs.start(nullptr, node.combine(few), NodeParts::user);
  const auto done = node.done();
  REQUIRE(done);
  CHECK(done->contributors == 2);
  CHECK(node.value(*done) == 3);
  CHECK(node.counts.ops_done == 1);
  CHECK(node.outside.jobs.jobs.empty());
}

TEST_CASE("a large op is done by a lane, and given when that has ended") {
  Running node;
  node.runs.start(nullptr, node.combine(many), NodeParts::user);
  CHECK_FALSE(node.done());
  REQUIRE(node.outside.jobs.jobs.size() == 1);
  CHECK(node.runs.next_deadline() == node.time + std::chrono::seconds(30));
  node.outside.jobs.end_all();
  const auto done = node.done();
  REQUIRE(done);
  CHECK(node.value(*done) == 3);
  CHECK(node.counts.bytes_reduced > 2 * many * sizeof(float));
  CHECK_FALSE(node.runs.next_deadline());
}

TEST_CASE("an op that its lane does not end in time is a Timeout, and its memory stays until the lane is quiet") {
  Running node;
  node.runs.start(nullptr, node.combine(many), NodeParts::user);
  const auto used = node.results.used_bytes();
  node.time += std::chrono::seconds(31);
  node.runs.expire(node.time);
  const auto error = node.failed();
  REQUIRE(error);
  CHECK(error->code() == Code::timeout);
  CHECK(node.outside.jobs.jobs.begin()->second.cancelled);
  CHECK(node.results.used_bytes() == used);
  node.outside.jobs.end_all();
  CHECK(node.results.used_bytes() == 0);
  CHECK(node.counts.ops_failed == 1);
}

TEST_CASE("an op waits while the store is full, and goes on when memory comes back") {
  Running node(memory_quota(4 * mebibyte));
  const auto op = node.combine(many);
  auto rest = node.ledger.charge({NodeParts::user, {}}, Resource::memory,
                                 4 * mebibyte - node.ledger.total().used[Resource::memory]);
  REQUIRE(rest);
  node.runs.start(nullptr, op, NodeParts::user);
  CHECK(node.admission.waiting() == 1);
  CHECK(node.outside.jobs.jobs.empty());
  SECTION("memory comes back") {
    rest->reset();
    node.admission.retry();
    node.outside.jobs.end_all();
    CHECK(node.done());
  }
  SECTION("none comes back") {
    node.admission.expire(node.time + std::chrono::seconds(31));
    REQUIRE(node.failed());
    CHECK(node.failed()->code() == Code::out_of_memory);
  }
  SECTION("nobody is left who would be told") {
    node.clients.erase({1});
    CHECK(node.runs.goes_on());
    node.runs.go_on();
    CHECK(node.admission.waiting() == 0);
    CHECK(node.counts.ops_failed == 1);
  }
}

TEST_CASE("what a lane fails fails the op with its error") {
  Running node;
  node.runs.start(nullptr, node.combine(many), NodeParts::user);
  node.outside.jobs.fail(node.outside.jobs.latest, {Code::failed, "the lane broke"});
  REQUIRE(node.failed());
  CHECK(node.failed()->message() == "the lane broke");
  CHECK(node.results.used_bytes() == 0);
}
