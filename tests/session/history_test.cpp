// Outcomes that a group remembers: who calls an op again by its key gets what was decided, and what bounds that.
#include <catch2/catch.hpp>

#include <map>

#include "client.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;
using muster::Code;
using muster::OnLoss;

namespace {

constexpr std::uint64_t large = 16 << 20;
constexpr std::size_t floats = 64 << 10;  // 256 KiB each

struct Remembering {
  explicit Remembering(std::uint64_t history = large, NodeSettings settings = small_settings(),
                       OnLoss policy = OnLoss::wait)
      : world(std::move(settings)), history_bytes(history), on_loss(policy) {
    first.join("g", 0, 2, on_loss, false, history_bytes);
    second.join("g", 1, 2, on_loss, false, history_bytes);
  }
  World world;
  std::uint64_t history_bytes;
  OnLoss on_loss;
  std::map<ClientId, ipc::SegmentId> segments;
  TestClient first{world, 1};
  TestClient second{world, 2};

  /// All inputs of a client lie in one segment, one over the other.
  ipc::ObjectId input(TestClient& client, float value) {
    const auto [segment, fresh] = segments.try_emplace(client.id());
    if (fresh) segment->second = client.lease(floats * sizeof(float));
    return client.seal(segment->second, 0, std::vector<float>(floats, value));
  }
  ipc::WorkId call(TestClient& client, const std::string& key, float value, Kind kind = Kind::allreduce) {
    return client.contribute(kind, {input(client, value)}, 0, std::chrono::seconds(30), key);
  }
  /// The first rank goes on alone.
  void reform() {
    const auto reformed = first.done(first.contribute(Kind::reform));
    REQUIRE(reformed);
    first.epoch = reformed->epoch;
  }
  /// Both ranks call it, and let go of what they got.
  ipc::ObjectId run(const std::string& key) {
    const auto one = call(first, key, 1);
    const auto two = call(second, key, 2);
    const auto result = first.done(one)->items[0].object;
    first.record(ipc::SubmissionType::release, ipc::Release{{result}});
    second.record(ipc::SubmissionType::release, ipc::Release{{second.done(two)->items[0].object}});
    return result;
  }
};

ipc::ObjectId result_of(TestClient& client, ipc::WorkId work) {
  const auto done = client.done(work);
  REQUIRE(done);
  REQUIRE(done->items.size() == 1);
  return done->items[0].object;
}

}  // namespace

TEST_CASE("who calls an op again by its key gets what was decided then") {
  Remembering group;
  const auto result = group.run("step 1");
  // With other values, and without the other rank.
  const auto again = group.call(group.first, "step 1", 100);
  CHECK(result_of(group.first, again) == result);
  CHECK(group.first.done(again)->contributors == 2);
  // The order of ops without a key is not touched.
  const auto one = group.first.contribute(Kind::barrier);
  const auto two = group.second.contribute(Kind::barrier);
  CHECK(group.first.done(one));
  CHECK(group.second.done(two));
}

TEST_CASE("a process that takes a lost seat over gets what its predecessor would have got") {
  Remembering group;
  const auto one = group.call(group.first, "step 1", 1);
  group.call(group.second, "step 1", 2);
  group.second.die();
  const auto result = result_of(group.first, one);
  TestClient next(group.world, 3);
  REQUIRE(next.join("g", 1, 2, group.on_loss, false, group.history_bytes));
  CHECK(result_of(next, group.call(next, "step 1", 7)) == result);
}

TEST_CASE("each rank gets its own part again") {
  Remembering group;
  const auto call = [&](TestClient& client, float first, float second) {
    return client.contribute(Kind::all_to_all, {group.input(client, first), group.input(client, second)}, 0,
                             std::chrono::seconds(30), "exchange");
  };
  const auto one = group.first.done(call(group.first, 1, 2));
  CHECK_FALSE(one);
  call(group.second, 3, 4);
  const auto again_first = group.first.done(call(group.first, 5, 6));
  const auto again_second = group.second.done(call(group.second, 7, 8));
  REQUIRE(again_first);
  REQUIRE(again_second);
  CHECK(again_first->items.size() == 2);
  CHECK(again_first->items[0].object != again_second->items[0].object);
}

TEST_CASE("who calls it again while it runs gets its outcome, too") {
  Remembering group;
  group.world.outside.jobs.hold = true;
  const auto large_input = [](TestClient& client) {
    return client.seal(client.lease(1 << 20), 0, std::vector<float>(std::size_t{200} << 10, 1.0F));
  };
  const auto call = [&](TestClient& client) {
    return client.contribute(Kind::allreduce, {large_input(client)}, 0, std::chrono::seconds(30), "step 1");
  };
  const auto one = call(group.first);
  const auto two = call(group.second);
  const auto again = call(group.first);
  CHECK_FALSE(group.first.done(again));
  group.world.outside.jobs.hold = false;
  group.world.outside.settle();
  CHECK(result_of(group.first, again) == result_of(group.first, one));
  CHECK(result_of(group.first, one) == result_of(group.second, two));
}

TEST_CASE("a call for another op than the key names is a Mismatch, and takes nobody's place") {
  Remembering group;
  group.run("step 1");
  const auto other = group.call(group.first, "step 1", 1, Kind::allgather);
  const auto error = group.first.failed(other);
  REQUIRE(error);
  CHECK(error->code() == Code::mismatch);
  CHECK(error->message() == "the key 'step 1' names allreduce of op='sum', which is done; this rank calls allgather");
}

TEST_CASE("the oldest outcome is forgotten where a group has no room for more") {
  Remembering group(floats * sizeof(float) * 2);
  const auto first = group.run("1");
  group.run("2");
  CHECK(result_of(group.first, group.call(group.first, "1", 9)) == first);
  group.run("3");
  // Nobody knows the first one any more: it gathers.
  const auto again = group.call(group.second, "1", 9);
  CHECK_FALSE(group.second.done(again));
  CHECK_FALSE(group.second.failed(again));
  CHECK(group.second.missing(again) == std::vector{0});
}

TEST_CASE("groups of one user share a quarter of its memory") {
  NodeSettings settings = small_settings();
  settings.quota.per_user[Resource::memory] = 4 * floats * sizeof(float) * 3;
  Remembering group(large, settings);
  for (const auto* key : {"1", "2", "3", "4"}) group.run(key);
  CHECK_FALSE(group.first.done(group.call(group.first, "1", 9)));
  CHECK(group.first.done(group.call(group.first, "2", 9)));
}

TEST_CASE("what is remembered goes while somebody waits for memory") {
  Remembering group;
  TestClient greedy(group.world, 3);
  group.run("1");
  const auto used = NodeAudit(group.world.node).charged()[Resource::memory];
  greedy.ask_lease((64 << 20) - used + (64 << 10), 5000);
  for (int i = 0; i < 10 && !greedy.reply().body_as_Segment(); ++i) group.world.advance(std::chrono::milliseconds(10));
  CHECK_FALSE(group.first.done(group.call(group.first, "1", 9)));
}

TEST_CASE("nothing is remembered for whoever does not ask for it, and nothing outlives its group") {
  SECTION("a group without a history") {
    Remembering group(0);
    group.run("1");
    CHECK_FALSE(group.first.done(group.call(group.first, "1", 9)));
  }
  SECTION("an op without a key") {
    Remembering group;
    const auto before = NodeAudit(group.world.node).charged();
    group.run("");
    CHECK(NodeAudit(group.world.node).charged()[Resource::objects] == before[Resource::objects] + 2);  // the inputs
  }
  SECTION("the group ends") {
    Remembering group;
    group.run("1");
    group.first.die();
    group.second.die();
    while (group.world.node.goes_on()) group.world.go_on();
    CHECK(NodeAudit(group.world.node).left_over().empty());
  }
}

TEST_CASE("ranks agree on the history") {
  World world;
  TestClient first(world, 1);
  TestClient second(world, 2);
  first.join("g", 0, 2, OnLoss::fail, false, 1000);
  CHECK(second.join("g", 1, 2, OnLoss::fail, false, 2000) == nullptr);
  CHECK(second.failure() == Code::invalid);
}

TEST_CASE("the list of objects shows what a history holds") {
  Remembering group;
  const auto result = group.run("1");
  const auto& objects = group.first.objects();
  bool found = false;
  for (const auto* object : objects) {
    if (object->object() != result.value) continue;
    found = true;
    REQUIRE(object->holders()->size() == 1);
    CHECK(object->holders()->Get(0)->str() == "history of 1 op");
    CHECK(object->in_ops() == 0);
  }
  CHECK(found);
}

TEST_CASE("a rank is told its own part, whoever else is answered at that moment") {
  Remembering group;
  group.world.outside.jobs.hold = true;
  constexpr std::size_t many = std::size_t{200} << 10;  // more than is done on the control thread
  const auto input = [&](TestClient& client, ipc::SegmentId segment, float value) {
    return client.seal(segment, 0, std::vector<float>(many, value));
  };
  const auto first = group.first.lease(many * sizeof(float));
  const auto second = group.second.lease(many * sizeof(float));
  const auto scan = [&](TestClient& client, ipc::SegmentId segment, float value) {
    return client.contribute(Kind::scan, {input(client, segment, value)}, 0, std::chrono::seconds(30), "step");
  };
  const auto one = scan(group.first, first, 1);
  const auto two = scan(group.second, second, 2);
  const auto again = scan(group.second, second, 3);
  group.world.outside.jobs.hold = false;
  group.world.outside.settle();
  // The first rank gets its own array, as it is, and the second one the sum.
  CHECK(result_of(group.first, one) != result_of(group.second, two));
  CHECK(result_of(group.second, again) == result_of(group.second, two));
  CHECK(NodeAudit(group.world.node).contradictions().empty());
}

TEST_CASE("many small outcomes leave the user most of the daemon's own memory") {
  Remembering group;
  const auto before = NodeAudit(group.world.node).charged()[Resource::heap];
  NodeSettings settings = small_settings();
  settings.quota.per_user[Resource::heap] = 8 << 20;
  Remembering small(large, settings);
  for (int i = 0; i < 2000; ++i) {
    const auto key = "barrier " + std::to_string(i);
    const auto one = small.first.contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), key);
    const auto two = small.second.contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), key);
    REQUIRE(small.first.done(one));
    REQUIRE(small.second.done(two));
    small.world.outside.completions.clear();
  }
  CHECK(NodeAudit(small.world.node).charged()[Resource::heap] < before + (1 << 20) + (64 << 10));
}

TEST_CASE("a split with the key of an op that is done takes place") {
  Remembering group;
  const auto one = group.call(group.first, "step 1", 1);
  const auto split = group.first.contribute(Kind::split, {}, 0, std::chrono::seconds(30), "step 1");
  const auto two = group.call(group.second, "step 1", 2);
  CHECK(result_of(group.first, one) == result_of(group.second, two));
  CHECK_FALSE(group.first.done(split));
  const auto other = group.second.contribute(Kind::split, {}, 0, std::chrono::seconds(30), "step 1");
  CHECK(group.first.done(split));
  CHECK(group.second.done(other));
}

TEST_CASE("a split that waits beside an op that is done ends at its deadline") {
  Remembering group;
  group.call(group.first, "step 1", 1);
  const auto split = group.first.contribute(Kind::split, {}, 0, std::chrono::seconds(1), "step 1");
  group.call(group.second, "step 1", 2);
  group.world.advance(std::chrono::seconds(2));
  const auto late = group.first.failed(split);
  REQUIRE(late);
  CHECK(late->code() == Code::timeout);
}

TEST_CASE("a new epoch remembers nothing of the one before") {
  Remembering group(large, small_settings(), OnLoss::shrink);
  group.run("step 1");
  SECTION("after a reform") {
    group.second.die();
    group.reform();
    // It is alone now, so this is an op of its own.
    const auto again = group.first.done(group.call(group.first, "step 1", 5));
    REQUIRE(again);
    CHECK(again->contributors == 1);
  }
  SECTION("after all members have gone, and others have come") {
    TestClient third(group.world, 3);
    TestClient fourth(group.world, 4);
    group.first.die();
    REQUIRE(third.join("g", 0, 2, group.on_loss, false, group.history_bytes));
    group.second.die();
    REQUIRE(fourth.join("g", 1, 2, group.on_loss, false, group.history_bytes));
    const auto again = group.call(third, "step 1", 5);
    CHECK_FALSE(third.done(again));
    CHECK_FALSE(third.failed(again));
  }
  CHECK(NodeAudit(group.world.node).contradictions().empty());
}

TEST_CASE("an op that ends after its epoch is not remembered in the next one") {
  Remembering group(large, small_settings(), OnLoss::shrink);
  group.world.outside.jobs.hold = true;
  const auto call = [&](TestClient& client) {
    const auto input = client.seal(client.lease(1 << 20), 0, std::vector<float>(std::size_t{200} << 10, 1.0F));
    return client.contribute(Kind::allreduce, {input}, 0, std::chrono::seconds(30), "step 1");
  };
  const auto one = call(group.first);
  call(group.second);
  group.second.die();
  group.reform();
  group.world.outside.jobs.hold = false;
  group.world.outside.settle();
  REQUIRE(group.first.done(one));
  const auto again = group.first.done(call(group.first));
  REQUIRE(again);
  CHECK(again->contributors == 1);
}

TEST_CASE("an open group can't have a history, as a newcomer must not see earlier results") {
  World world;
  TestClient client(world, 1);
  CHECK(client.join("g", 0, 2, OnLoss::wait, true, 1000) == nullptr);
  CHECK(client.failure() == Code::invalid);
}

TEST_CASE("what a user's groups remember makes room for the user itself") {
  NodeSettings settings = small_settings();
  settings.quota.per_client[Resource::memory] = 8 << 20;
  Remembering group(large, settings);
  // The first rank's own arrays are what is remembered: each broadcast is of a fresh one.
  constexpr std::uint64_t bytes = 1 << 20;
  std::vector<ipc::SegmentId> arrays;
  for (int step = 0; step < 6; ++step) {
    const auto key = "step " + std::to_string(step);
    arrays.push_back(group.first.lease(bytes));
    const auto array = group.first.seal(arrays.back(), 0, std::vector<float>(bytes / sizeof(float), 1.0F));
    const auto one = group.first.contribute(Kind::broadcast, {array}, 0, std::chrono::seconds(30), key);
    const auto two = group.second.contribute(Kind::broadcast, {}, 0, std::chrono::seconds(30), key);
    const auto given = group.first.done(one);
    REQUIRE(given);
    REQUIRE(group.second.done(two));
    group.first.record(ipc::SubmissionType::release, ipc::Release{{array}});
    group.first.record(ipc::SubmissionType::release, ipc::Release{{given->items[0].object}});
    group.second.record(ipc::SubmissionType::release, ipc::Release{{given->items[0].object}});
  }
  // The groups of the user remember 6 MiB of the 8 that the client may have.
  group.first.ask_lease(4 << 20, 5000);
  const auto gone = group.first.count(ipc::CompletionType::object_gone);
  CHECK(gone >= 4);
  for (std::size_t i = 0; i < gone && !group.first.reply().body_as_Segment(); ++i) group.first.ask_return(arrays[i]);
  CHECK(group.first.reply().body_as_Segment());
}

TEST_CASE("a part is remembered with the bytes of its whole") {
  Remembering group(floats * sizeof(float) / 2);
  const auto whole = group.input(group.first, 1);
  auto manifest = group.first.describe(whole);
  manifest.dims[0] = 16;
  manifest.leaves[0].count = 16;
  const auto part = group.first.seal(manifest, whole);
  const auto one = group.first.contribute(Kind::broadcast, {part}, 0, std::chrono::seconds(30), "step 1");
  const auto two = group.second.contribute(Kind::broadcast, {}, 0, std::chrono::seconds(30), "step 1");
  REQUIRE(group.first.done(one));
  REQUIRE(group.second.done(two));
  // The whole is larger than the history.
  const auto again = group.first.contribute(Kind::broadcast, {part}, 0, std::chrono::seconds(30), "step 1");
  CHECK_FALSE(group.first.done(again));
}

TEST_CASE("a group that ends forgets much in pieces") {
  NodeSettings settings = small_settings();
  Remembering group(large, settings);
  constexpr int count = 3000;
  for (int i = 0; i < count; ++i) {
    const auto key = "barrier " + std::to_string(i);
    const auto one = group.first.contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), key);
    group.second.contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), key);
    REQUIRE(group.first.done(one));
    group.world.outside.completions.clear();
  }
  static_cast<void>(group.world.node.disconnected(group.first.id(), "died", group.world.now));
  static_cast<void>(group.world.node.disconnected(group.second.id(), "died", group.world.now));
  int turns = 0;
  for (; group.world.node.goes_on(); ++turns) group.world.node.go_on(group.world.now);
  CHECK(turns > 4);
  group.world.node.disposed(group.world.now);
  group.world.node.disposed(group.world.now);
  CHECK(NodeAudit(group.world.node).left_over().empty());
}

TEST_CASE("a user that waits at its own limit makes nobody else's groups forget") {
  NodeSettings settings = small_settings();
  settings.quota.per_user[Resource::memory] = 16 << 20;
  Remembering group(large, settings);
  TestClient greedy(group.world, 3, 1001);
  const auto result = group.run("1");
  const auto held = greedy.lease(8 << 20);
  greedy.ask_lease(12 << 20, 5000);
  for (int i = 0; i < 10; ++i) group.world.advance(std::chrono::milliseconds(10));
  CHECK(result_of(group.first, group.call(group.first, "1", 9)) == result);
  static_cast<void>(held);
}

TEST_CASE("an op with many results makes what its user's groups remember give way") {
  constexpr std::uint64_t limit = 32 << 20;
  constexpr std::uint64_t each = 1 << 20;
  constexpr int ranks = 10;  // the first one gets its own array, and the others a result each
  NodeSettings settings = small_settings();
  settings.quota.per_user[Resource::memory] = limit;
  Remembering group(large, settings);
  for (int step = 0; step < 14; ++step) group.run("step " + std::to_string(step));
  const auto array = group.first.seal(group.first.lease(each), 0, std::vector<float>(each / sizeof(float), 1.0F));
  // There is a mebibyte less than the op needs, and the history has more than three.
  TestClient other(group.world, 3);
  const auto used = NodeAudit(group.world.node).charged()[Resource::memory];
  other.lease(limit - used - (ranks - 2) * each);
  ipc::Combine combine;
  combine.work = {1000};
  combine.kind = Kind::scan;
  combine.ranks = ranks;
  combine.timeout_ns = std::chrono::nanoseconds(std::chrono::seconds(5)).count();
  for (int rank = 0; rank < ranks; ++rank) combine.objects.push_back(array);
  group.first.record(ipc::SubmissionType::combine, combine);
  for (int i = 0; i < 10; ++i) {
    group.world.advance(std::chrono::milliseconds(10));
    while (group.world.node.goes_on()) group.world.go_on();
  }
  CHECK(group.first.done(combine.work));
}

TEST_CASE("each of several calls that came while an op ran is answered") {
  Remembering group;
  group.world.outside.jobs.hold = true;
  const auto segment = group.first.lease(1 << 20);
  const auto other = group.second.lease(1 << 20);
  const auto call = [&](TestClient& client, ipc::SegmentId from) {
    const auto input = client.seal(from, 0, std::vector<float>(std::size_t{200} << 10, 1.0F));
    return client.contribute(Kind::allreduce, {input}, 0, std::chrono::seconds(30), "step 1");
  };
  const auto one = call(group.first, segment);
  call(group.second, other);
  const std::vector again{call(group.first, segment), call(group.first, segment), call(group.first, segment)};
  group.world.outside.jobs.hold = false;
  group.world.outside.settle();
  for (const auto work : again) CHECK(result_of(group.first, work) == result_of(group.first, one));
}
