// The node charges what it keeps in its own memory for somebody: at least what it takes, and not much more.
#include <catch2/catch.hpp>

#include <malloc.h>

#include <functional>

#include "client.hpp"
#include "walk/audit.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;
using muster::Code;

namespace {

constexpr auto heap = static_cast<std::size_t>(Resource::heap);

NodeSettings large_settings() {
  auto settings = small_settings();
  constexpr std::uint64_t memory = std::uint64_t{1} << 30;
  constexpr std::uint64_t plenty = 1 << 20;
  settings.quota.total = settings.quota.per_user =
      settings.quota.per_client = {memory, plenty, plenty, plenty, plenty, memory, plenty};
  settings.in_flight_max = plenty;
  settings.seats_max = plenty;
  settings.requests_max = plenty;
  return settings;
}

/// Does something many times, and compares what malloc gave out with what was charged.
class Comparison {
 public:
  explicit Comparison(World& world) : world_(world), allocated_(look()), charged_(charged()) {}

  /// `kernel_bytes` is what each of them is also charged for the kernel's memory.
  void after(int times, const std::function<void(int)>& act, std::uint64_t kernel_bytes = 0) {
    // Deques and tables have some memory from the beginning.
    constexpr std::int64_t slack = 4096;
    for (int i = 0; i < times; ++i) {
      act(i);
      if (i % 61 != 0 && i + 1 < times) continue;
      const std::uint64_t in_kernel = static_cast<std::uint64_t>(i + 1) * kernel_bytes;
      const auto taken = static_cast<std::int64_t>(look() - allocated_ + in_kernel);
      REQUIRE(taken <= static_cast<std::int64_t>(charged() - charged_) + slack);
    }
    // A sanitizer's malloc does not report it.
    const std::uint64_t in_kernel = static_cast<std::uint64_t>(times) * kernel_bytes;
    if (allocated_ > 0) CHECK(charged() - charged_ - in_kernel <= 3 * (look() - allocated_));
  }

 private:
  /// Returns the bytes that malloc has given out, without what the test itself keeps of the clients' messages.
  [[nodiscard]] std::uint64_t look() {
    world_.outside.completions.clear();
    world_.outside.frames.clear();
    const auto info = ::mallinfo2();
    return info.uordblks + info.hblkhd;
  }
  [[nodiscard]] std::uint64_t charged() const { return NodeAudit(world_.node).charged()[heap]; }

  World& world_;
  std::uint64_t allocated_;
  std::uint64_t charged_;
};

}  // namespace

/// Runs over memfds, as the bytes of segments must not come from malloc.
TEST_CASE("the node's memory for segments is charged", "[memfd]") {
  constexpr std::uint64_t in_kernel = SegmentTable::segment_kernel_bytes;
  World world(large_settings());
  TestClient alice(world, 1);
  TestClient bob(world, 2);
  alice.lease(4096);  // tables have some memory from the beginning
  SECTION("segments") {
    Comparison(world).after(
        500, [&](int) { alice.lease(4096); }, in_kernel);
  }
  SECTION("segments that nobody has mapped yet") {
    Comparison(world).after(
        500, [&](int) { alice.ask_lease(4096); }, in_kernel);
  }
  SECTION("segments that have ended, but are still mapped") {
    Comparison(world).after(
        500,
        [&](int) {
          const auto ended = alice.lease(4096);
          bob.map(ended);
          alice.give_back(ended);
        },
        in_kernel);
  }
}

TEST_CASE("the node's memory is charged") {
  World world(large_settings());
  TestClient alice(world, 1);
  TestClient bob(world, 2);
  const auto segment = alice.lease(1 << 20);
  std::vector<ipc::ObjectId> ids;
  ids.reserve(100'000);
  SECTION("objects") {
    Comparison(world).after(30'000, [&](int) { alice.seal(segment, 0, {1}); });
  }
  SECTION("holds") {
    for (int i = 0; i < 30'000; ++i) ids.push_back(alice.seal(segment, 0, {1}));
    Comparison(world).after(30'000, [&](int i) {
      bob.look_up(ids[static_cast<std::size_t>(i)], {{42, static_cast<std::uint64_t>(i) + 1}});
    });
  }
  SECTION("tokens") {
    Comparison(world).after(30'000, [&](int i) { alice.open_token(std::to_string(i)); });
  }
  SECTION("objects under a token") {
    bob.open_token("t");
    for (int i = 0; i < 30'000; ++i) ids.push_back(alice.seal(segment, 0, {1}));
    Comparison(world).after(30'000, [&](int i) { alice.keep_for("t", ids[static_cast<std::size_t>(i)]); });
  }
  SECTION("lookups that wait for records that their maker has published") {
    world.outside.hold_rings = true;
    Comparison(world).after(10'000, [&](int) { bob.look_up(ipc::make_object_id(alice.id(), 1), {}); });
    world.outside.read_rings();
  }
  SECTION("seals that wait") {
    alice.ask_lease(4096, 1000, true);
    const ipc::SegmentId hard{alice.reply().body_as_Segment()->segment()};
    alice.mapped(hard);
    world.outside.hold_blocking = true;
    Comparison(world).after(3'000, [&](int) { alice.hard_seal(hard); });
    world.outside.run_blocked();
  }
  SECTION("ops by order") {
    alice.join("g", 0, 2);
    Comparison(world).after(30'000, [&](int) { alice.contribute(Kind::barrier); });
  }
  SECTION("ops by order of many") {
    alice.join("g", 0, 1024);
    Comparison(world).after(30'000, [&](int) { alice.contribute(Kind::barrier); });
  }
  SECTION("ops by key") {
    alice.join("g", 0, 2);
    Comparison(world).after(
        10'000, [&](int i) { alice.contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), std::to_string(i)); });
  }
  SECTION("ops by key of many") {
    alice.join("g", 0, 1024);
    Comparison(world).after(
        10'000, [&](int i) { alice.contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), std::to_string(i)); });
  }
  SECTION("ops by long keys") {
    alice.join("g", 0, 2);
    const std::string key(4000, 'k');
    Comparison(world).after(10'000, [&](int i) {
      alice.contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), key + std::to_string(i));
    });
  }
  SECTION("groups") {
    Comparison(world).after(3'000, [&](int i) { alice.join("g" + std::to_string(i), 0, 1024); });
  }
  SECTION("small groups") {
    Comparison(world).after(10'000, [&](int i) { alice.join("g" + std::to_string(i), 0, 2); });
  }
  SECTION("groups of 16") {
    Comparison(world).after(10'000, [&](int i) { alice.join("g" + std::to_string(i), 0, 16); });
  }
  SECTION("seats") {
    Comparison(world).after(1024, [&](int i) { alice.join("g", i, 1024); });
  }
  SECTION("failed ops") {
    alice.join("g", 0, 2);
    Comparison(world).after(3'000, [&](int) { alice.contribute(Kind::broadcast, {}, 5); });
  }
  SECTION("lost seats") {
    bob.join("g", 1023, 1024, muster::OnLoss::shrink);
    Comparison(world).after(1023, [&](int i) {
      alice.join("g", i, 1024, muster::OnLoss::shrink);
      alice.leave();
    });
  }
}

namespace {

/// Settings with room for a few things of each client.
NodeSettings tight_settings(std::uint64_t per_client = 64 << 10) {
  auto settings = small_settings();
  settings.quota.per_client[heap] = per_client;
  return settings;
}

struct TightRanks : TwoRanks {
  TightRanks() : TwoRanks(tight_settings()) {}
};

/// A client with a seat contributes until it is refused. Returns how often that went well.
int contribute_until_refused(TestClient& client) {
  for (int count = 0; count < 1000; ++count)
    if (client.failed(client.contribute(Kind::barrier))) return count;
  return -1;
}

}  // namespace

TEST_CASE_METHOD(TightRanks,
                 "a contribution that the heap has no room for takes its place and fails its op on every seat") {
  const int pending = contribute_until_refused(first);
  REQUIRE(pending > 5);
  for (int i = 0; i < pending; ++i) REQUIRE(second.done(second.contribute(Kind::barrier)));
  const auto refused = second.failed(second.contribute(Kind::barrier));
  REQUIRE(refused);
  CHECK(refused->code() == Code::quota_exceeded);
  CHECK_THAT(refused->message(), Catch::Matchers::Contains("of the daemon's own memory"));
  // After that the ranks go on.
  const auto next = first.contribute(Kind::barrier);
  CHECK(second.done(second.contribute(Kind::barrier)));
  CHECK(first.done(next));
  CHECK(NodeAudit(world.node).contradictions().empty());
}

TEST_CASE("long keys are charged, even those of newcomers") {
  World world(tight_settings());
  TestClient alice(world, 1);
  TestClient bob(world, 2);
  TestClient carol(world, 3);
  alice.join("g", 0, 2);
  bob.join("g", 1, 2);
  bob.die();
  carol.join("g", 1, 2);
  const std::string key(4000, 'k');
  int count = 0;
  while (count < 100 &&
         !carol.failed(carol.contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), key + std::to_string(count))))
    ++count;
  CHECK(count > 5);
  CHECK(count < 16);
  CHECK(NodeAudit(world.node).contradictions().empty());
}

TEST_CASE("groups and seats that the heap has no room for are refused") {
  World world(tight_settings());
  TestClient alice(world, 1);
  TestClient bob(world, 2);
  int groups = 0;
  while (groups < 100 && alice.join("g" + std::to_string(groups), 0, 640)) ++groups;
  CHECK(groups == 2);
  CHECK(alice.failure() == Code::quota_exceeded);
  REQUIRE(bob.join("g0", 1, 640));
  CHECK(NodeAudit(world.node).contradictions().empty());
}

TEST_CASE_METHOD(TightRanks, "failures are remembered at the cost of the client that failed, and then of its user") {
  constexpr int ops = 3000;
  std::vector<ipc::WorkId> works;
  for (int i = 0; i < ops; ++i) works.push_back(first.contribute(Kind::broadcast, {}, 5));
  CHECK(NodeAudit(world.node).contradictions().empty());
  for (const auto work : works) {
    const auto late = second.failed(second.contribute(Kind::broadcast, {}, 5));
    REQUIRE(first.failed(work));
    REQUIRE(late);
    CHECK(late->code() == first.failed(work)->code());
  }
  const auto next = first.contribute(Kind::barrier);
  CHECK(second.done(second.contribute(Kind::barrier)));
  CHECK(first.done(next));
}

TEST_CASE("early and late ranks of a large group are told the same") {
  World world(large_settings());
  TestClient early(world, 1);
  TestClient late(world, 2);
  constexpr int ranks = 1024;
  early.join("g", 0, ranks);
  late.join("g", 1, ranks);
  const auto seat = late.seat;
  for (int rank = 2; rank < ranks; ++rank) late.join("g", rank, ranks);
  const auto first = early.contribute(Kind::barrier, {}, 0, std::chrono::seconds(1));
  world.advance(std::chrono::seconds(2));
  late.seat = seat;
  const auto second = late.contribute(Kind::barrier);
  REQUIRE(early.failed(first));
  REQUIRE(late.failed(second));
  CHECK(early.failed(first)->ranks().size() == ranks - 1);
  CHECK(late.failed(second)->ranks() == early.failed(first)->ranks());
  CHECK(late.failed(second)->hint() == early.failed(first)->hint());
  CHECK(late.failed(second)->message() == early.failed(first)->message());
}

TEST_CASE("a rank for whose failures nobody has room loses its seat, and the others get earlier outcomes") {
  auto settings = tight_settings();
  settings.quota.per_user[heap] = 128 << 10;
  World world(settings);
  TestClient first(world, 1);
  TestClient second(world, 2);
  first.join("g", 0, 2);
  second.join("g", 1, 2);
  const bool by_key = GENERATE(false, true);
  const auto key = [&](int op) { return by_key ? std::to_string(op) : std::string(); };
  const auto broadcast = [&](TestClient& client, int op) {
    return client.contribute(Kind::broadcast, {}, 5, std::chrono::seconds(30), key(op));
  };
  std::vector<Code> codes;
  for (int op = 0; op < 1000; ++op) {
    const auto failed = first.failed(broadcast(first, op));
    REQUIRE(failed);
    codes.push_back(failed->code());
    if (failed->message().find("has lost its seat") != std::string::npos) break;
  }
  REQUIRE(codes.size() < 1000);
  CHECK(codes.front() == Code::invalid);
  CHECK(codes.back() == Code::quota_exceeded);
  codes.pop_back();
  CHECK(NodeAudit(world.node).contradictions().empty());
  for (int op = 0; op < static_cast<int>(codes.size()); ++op) {
    const auto late = second.failed(broadcast(second, op));
    REQUIRE(late);
    CHECK(late->code() == codes[static_cast<std::size_t>(op)]);
  }
  const auto after = second.failed(broadcast(second, 1000));
  REQUIRE(after);
  CHECK(after->code() == Code::peer_lost);
  CHECK_THAT(after->message(), Catch::Matchers::Contains("more ops than the daemon has memory for"));
  CHECK(first.failed(broadcast(first, 1001))->code() == Code::group_closed);
}

TEST_CASE_METHOD(TightRanks, "an outcome for which one rank has no room is the same error for all") {
  const auto seat_of_second = second.seat;
  // Bob has room for just one op.
  TestClient carol(world, 3);
  second.join("full", 0, 2);
  carol.join("full", 1, 2);
  REQUIRE(contribute_until_refused(second) > 5);
  carol.contribute(Kind::barrier);
  second.seat = seat_of_second;
  const auto segment = first.lease(1 << 16);
  const auto given = first.contribute(Kind::broadcast, {first.seal(segment, 0, {1})});
  const auto taken = second.contribute(Kind::broadcast);
  REQUIRE(second.failed(taken));
  CHECK(second.failed(taken)->code() == Code::quota_exceeded);
  CHECK_THAT(second.failed(taken)->message(), Catch::Matchers::Contains("client 2 holds"));
  REQUIRE(first.failed(given));
  CHECK(first.failed(given)->message() == second.failed(taken)->message());
  CHECK(NodeAudit(world.node).contradictions().empty());
}

TEST_CASE("connections that only ask are charged, except for a few of each user that look at a full daemon") {
  World world(tight_settings());
  TestClient alice(world, 1);
  const auto before = NodeAudit(world.node).charged()[heap];
  std::uint32_t id = 2;
  for (; id < 10; ++id) REQUIRE(TestClient::not_yet_welcome(world, id, false).welcomed());
  CHECK(NodeAudit(world.node).charged()[heap] == before);
  for (; id < 20; ++id) REQUIRE(TestClient::not_yet_welcome(world, id, false).welcomed());
  CHECK(NodeAudit(world.node).charged()[heap] == before + 10 * (4 << 10));
  CHECK(NodeAudit(world.node).contradictions().empty());
}

TEST_CASE("a request that waits for others is charged to the client that asks, even after it has gone") {
  World world(tight_settings());
  TestClient maker(world, 1);
  const auto object = ipc::make_object_id(maker.id(), 1);
  const auto used = [&] { return NodeAudit(world.node).charged()[heap]; };
  const auto before = used();
  SECTION("lookups") {
    world.outside.hold_rings = true;
    {
      TestClient asks(world, 2);
      std::uint64_t waiting = 0;
      for (asks.look_up(object, {}); asks.replies() == 1; asks.look_up(object, {})) ++waiting;
      CHECK(asks.failure() == Code::quota_exceeded);
      CHECK(waiting * waiting_lookup_bytes <= 64 << 10);
      asks.die();
      CHECK(used() == before + waiting * waiting_lookup_bytes);
    }
    CHECK(NodeAudit(world.node).contradictions().empty());
    world.outside.read_rings();
  }
  SECTION("seals") {
    world.outside.hold_blocking = true;
    {
      TestClient asks(world, 2);
      asks.ask_lease(4096, 1000, true);
      const ipc::SegmentId segment{asks.reply().body_as_Segment()->segment()};
      asks.mapped(segment);
      world.outside.run_blocked();
      const auto replies = asks.replies();
      std::uint64_t waiting = 0;
      for (asks.hard_seal(segment); asks.replies() == replies; asks.hard_seal(segment)) ++waiting;
      CHECK(asks.failure() == Code::quota_exceeded);
      CHECK(waiting * waiting_seal_bytes <= 64 << 10);
      asks.die();
      CHECK(used() == before + waiting * waiting_seal_bytes + SegmentTable::segment_heap_bytes);
    }
    CHECK(NodeAudit(world.node).contradictions().empty());
    world.outside.run_blocked();
  }
  CHECK(used() == before);
}

TEST_CASE("a life line costs the same however much it keeps") {
  World world(tight_settings(2 << 20));
  TestClient alice(world, 1);
  const auto segment = alice.lease(1 << 16);
  for (int i = 0; i < 500; ++i) alice.seal(segment, 0, {1});
  const auto before = NodeAudit(world.node).charged()[heap];
  for (int i = 0; i < 100; ++i) alice.fork();
  CHECK(NodeAudit(world.node).charged()[heap] - before == 100 * lifeline_bytes);
  CHECK(NodeAudit(world.node).contradictions().empty());
}

TEST_CASE("a description is sent only if there is room to build it, otherwise nothing is held") {
  World world(tight_settings(1 << 20));
  TestClient maker(world, 1);
  TestClient reader(world, 2);
  const auto describe = [&](TestClient& client, ipc::ObjectId object) {
    constexpr std::uint64_t request = 1000;
    FrameBuilder out(request);
    client.ask(out, wire::Body_Describe, wire::CreateDescribe(out.fbb, object.value).Union());
    return client.reply().body_type();
  };
  ipc::Manifest manifest;
  manifest.structure = std::string(400 << 10, 's');
  const auto small = maker.seal(manifest, {});
  manifest.structure = std::string(600 << 10, 's');
  const auto large = maker.seal(manifest, {});
  CHECK(describe(maker, small) == wire::Body_Object);
  CHECK(describe(maker, large) == wire::Body_Failure);
  CHECK(maker.failure() == Code::quota_exceeded);
  reader.look_up(small, {{42, 1}});
  CHECK(reader.reply().body_type() == wire::Body_Object);
  reader.look_up(large, {{42, 2}});
  CHECK(reader.failure() == Code::quota_exceeded);
  CHECK(describe(reader, small) == wire::Body_Object);
  CHECK(describe(reader, large) == wire::Body_Failure);
  CHECK(reader.failure() == Code::denied);
}
