// What ops and leases do when the store is full: they wait in line, and go on as soon as there is room.
#include <catch2/catch.hpp>
#include <muster/ipc/ring.hpp>

#include "client.hpp"
#include "walk/audit.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;
using muster::Code;

namespace {

constexpr std::uint64_t mebibyte = 1 << 20;

/// Settings with room for the rings of `clients` clients and for segments of `bytes` bytes in all.
NodeSettings budget_of(std::uint64_t clients, std::uint64_t bytes) {
  auto settings = small_settings();
  bytes += clients * ipc::channel_bytes;
  const auto memory = static_cast<std::size_t>(Resource::memory);
  settings.quota.total[memory] = settings.quota.per_user[memory] = settings.quota.per_client[memory] = bytes;
  return settings;
}

/// Two ranks with an input each, in segments without room for anything else. The segments of results have none either.
struct Pair {
  explicit Pair(std::uint64_t budget, std::uint64_t clients = 2) : world(budget_of(clients, budget)) {
    left.join("g", 0, 2);
    right.join("g", 1, 2);
    of_left = left.seal(left.lease(mebibyte), 0, std::vector<float>(200'000, 1.0F));
    of_right = right.seal(right.lease(mebibyte), 0, std::vector<float>(200'000, 2.0F));
  }
  ipc::WorkId allreduce() {
    left.contribute(Kind::allreduce, {of_left});
    return right.contribute(Kind::allreduce, {of_right});
  }
  World world;
  TestClient left{world, 1};
  TestClient right{world, 2};
  ipc::ObjectId of_left;
  ipc::ObjectId of_right;
};

bool has_segment(TestClient& client) { return client.reply().body_as_Segment() != nullptr; }

}  // namespace

TEST_CASE("an op that waits for memory goes on when a result is let go of") {
  Pair pair(4 * mebibyte);
  const auto first = pair.allreduce();
  const auto second = pair.allreduce();
  const auto third = pair.allreduce();
  REQUIRE(pair.left.done(first));
  REQUIRE(pair.left.done(second));
  REQUIRE_FALSE(pair.left.done(third));
  const ipc::Release release{{pair.left.done(first)->items[0].object}};
  pair.left.record(ipc::SubmissionType::release, release);
  REQUIRE_FALSE(pair.left.done(third));  // the other rank holds it, too
  pair.right.record(ipc::SubmissionType::release, release);
  CHECK(pair.left.done(third));
}

TEST_CASE("an op that finds no memory until its deadline fails with OutOfMemory on all seats") {
  Pair pair(3 * mebibyte);
  REQUIRE(pair.left.done(pair.allreduce()));
  const auto second = pair.allreduce();
  REQUIRE_FALSE(pair.left.failed(second));
  pair.world.advance(std::chrono::seconds(31));
  REQUIRE(pair.left.failed(second));
  REQUIRE(pair.right.failed(second));
  CHECK(pair.left.failed(second)->code() == Code::out_of_memory);
}

TEST_CASE("an op that waits for memory ends with the last rank that would be told") {
  Pair pair(3 * mebibyte, 3);
  TestClient onlooker(pair.world, 3);
  REQUIRE(pair.left.done(pair.allreduce()));
  pair.allreduce();
  REQUIRE(onlooker.status().waiting_for_memory() == 1);
  pair.left.die();
  CHECK(onlooker.status().waiting_for_memory() == 1);
  pair.right.die();
  CHECK(onlooker.status().waiting_for_memory() == 0);
  CHECK(onlooker.status().objects() == 0);
}

namespace {

/// Calls an allreduce of two refs.
ipc::WorkId combine_two(TestClient& client, ipc::ObjectId input, std::uint64_t work) {
  ipc::Combine combine;
  combine.work = {work};
  combine.ranks = 2;
  combine.timeout_ns = Duration(std::chrono::seconds(30)).count();
  combine.objects.resize(combine.ranks, input);
  client.record(ipc::SubmissionType::combine, combine);
  return combine.work;
}

}  // namespace

TEST_CASE("very many ops that wait for memory end a few at a time") {
  constexpr std::uint32_t ops = 600;
  World world(budget_of(3, 3 * mebibyte));
  TestClient client(world, 1);
  TestClient holder(world, 2);
  TestClient onlooker(world, 3);
  const auto input = client.seal(client.lease(mebibyte), 0, std::vector<float>(200'000, 1.0F));
  holder.lease(2 * mebibyte);
  for (std::uint32_t work = 1; work <= ops; ++work) combine_two(client, input, work);
  REQUIRE(onlooker.status().waiting_for_memory() == ops);
  const auto waiting = [&] { return onlooker.status().waiting_for_memory(); };
  SECTION("when no rank is left that would be told") {
    client.die();
    CHECK(waiting() > ops / 2);
    CHECK(world.node.goes_on());
    int turns = 0;
    for (; world.node.goes_on() && turns < 100; ++turns) {
      const auto before = waiting();
      world.go_on();
      CHECK(before - waiting() <= 256);
    }
    CHECK(turns > 2);
  }
  SECTION("when their deadlines pass") {
    world.advance(std::chrono::seconds(31));
    CHECK(waiting() > ops / 2);
    int turns = 0;
    for (; world.node.next_deadline() <= world.now && turns < 100; ++turns) {
      const auto before = waiting();
      world.node.tick(world.now);
      CHECK(before - waiting() <= 256);
    }
    CHECK(turns > 2);
    CHECK(client.count(ipc::CompletionType::failed) == ops);
  }
  CHECK(waiting() == 0);
}

TEST_CASE("very many ops that wait for memory are served a few at a time, in turn, and none is forgotten") {
  constexpr std::uint64_t ops = 2000;  // for each user
  auto settings = budget_of(5, 8 * mebibyte);
  settings.quota.total[static_cast<std::size_t>(Resource::slots)] = 2 * ops;
  World world(settings);
  constexpr std::uint32_t alice = 1000;
  constexpr std::uint32_t bob = 2000;
  TestClient of_alice(world, 1, alice);
  TestClient of_bob(world, 2, bob);
  TestClient holder(world, 3, alice);
  TestClient onlooker(world, 4);
  TestClient bystander(world, 5, 3000);
  const std::vector<float> values(64, 1.0F);
  const auto input_of_alice = of_alice.seal(of_alice.lease(mebibyte), 0, values);
  const auto input_of_bob = of_bob.seal(of_bob.lease(mebibyte), 0, values);
  const auto input_of_bystander = bystander.seal(bystander.lease(mebibyte), 0, values);
  const auto held = holder.lease(5 * mebibyte);
  for (std::uint64_t work = 1; work <= ops; ++work) {
    combine_two(of_alice, input_of_alice, work);
    combine_two(of_bob, input_of_bob, work);
  }
  const auto waiting = [&] { return onlooker.status().waiting_for_memory(); };
  REQUIRE(waiting() == 2 * ops);
  const auto served = [](TestClient& client) { return client.count(ipc::CompletionType::done); };
  holder.give_back(held);
  CHECK(waiting() > 2 * ops - 100);
  CHECK(world.node.goes_on());
  // Other requests go on meanwhile.
  const auto other = combine_two(bystander, input_of_bystander, 1);
  CHECK(bystander.done(other));
  int turns = 0;
  for (; world.node.goes_on() && turns < 2000; ++turns) {
    const auto before = waiting();
    world.go_on();
    CHECK(before - waiting() <= 50);
    const auto more = static_cast<std::int64_t>(served(of_alice)) - static_cast<std::int64_t>(served(of_bob));
    CHECK(std::abs(more) <= 1);
  }
  CHECK(turns > 40);
  CHECK(waiting() == 0);
  for (auto* client : {&of_alice, &of_bob}) {
    std::vector<std::uint64_t> order;
    for (const auto& completion : world.outside.completions[client->id()])
      if (completion.type == ipc::CompletionType::done)
        order.push_back(ipc::read_done(completion.body).value().work.value);
    std::vector<std::uint64_t> expected(ops);
    std::iota(expected.begin(), expected.end(), 1);
    CHECK(order == expected);
  }
}

namespace {

/// Calls a scan of `refs` refs, which has as many results.
ipc::WorkId combine_scan(TestClient& client, ipc::ObjectId input, std::uint32_t refs) {
  ipc::Combine combine;
  combine.work = {refs};
  combine.kind = Kind::scan;
  combine.ranks = refs;
  combine.timeout_ns = Duration(std::chrono::seconds(30)).count();
  combine.objects.resize(combine.ranks, input);
  client.record(ipc::SubmissionType::combine, combine);
  return combine.work;
}

constexpr std::uint32_t many = 40;
const std::vector<float> one_mebibyte(mebibyte / sizeof(float), 1.0F);

}  // namespace

TEST_CASE("the segments of an op of many results are made a few at a time") {
  World world(budget_of(1, 64 * mebibyte));
  TestClient client(world, 1);
  const auto input = client.seal(client.lease(mebibyte), 0, one_mebibyte);
  world.outside.mapped = 0;
  const auto work = combine_scan(client, input, many);
  int turns = 0;
  for (std::size_t before = 0; world.node.goes_on() && turns < 100; ++turns) {
    CHECK(world.outside.mapped - before <= 8);
    REQUIRE_FALSE(client.done(work));
    before = world.outside.mapped;
    world.go_on();
  }
  CHECK(turns > 3);
  CHECK(world.outside.mapped == many - 1);  // the first rank's result is its input
  REQUIRE(client.done(work));
  CHECK(client.done(work)->items.size() == many);
  SECTION("and are used again at once") {
    ipc::Release release;
    const auto done = client.done(work);
    for (const auto& item : done->items) release.objects.push_back(item.object);
    client.record(ipc::SubmissionType::release, release);
    REQUIRE(client.done(combine_scan(client, input, many - 1)));
    CHECK(world.outside.mapped == many - 1);
  }
}

TEST_CASE("while the segments of an op are made, others go on") {
  World world(budget_of(2, 64 * mebibyte));
  TestClient client(world, 1);
  TestClient other(world, 2);
  const auto input = client.seal(client.lease(mebibyte), 0, one_mebibyte);
  const auto small = other.seal(other.lease(mebibyte), 0, {1.0F, 2.0F});
  const auto work = combine_scan(client, input, many);
  REQUIRE_FALSE(client.done(work));
  CHECK(other.done(combine_two(other, small, 1)));
  SECTION("and it ends, whichever rank has gone") {
    client.die();
    for (int turns = 0; world.node.goes_on() && turns < 100; ++turns) world.go_on();
    CHECK(world.node.ops_in_flight() == 0);
    CHECK(other.status().objects() == 2);  // its own object, and the result of its op
  }
}

TEST_CASE("an op without enough memory for its results makes none of them, however often it tries") {
  // The reserve for small requests looks like room until the op asks for each result.
  const std::uint64_t reserve = GENERATE(0U, 8U) * mebibyte;
  auto settings = budget_of(3, 63 * mebibyte + reserve);
  settings.quota.reserve_bytes = reserve;
  World world(std::move(settings));
  TestClient client(world, 1);
  TestClient holder(world, 2);
  TestClient other(world, 3);
  const auto input = client.seal(client.lease(mebibyte), 0, one_mebibyte);
  const auto held = holder.lease(25 * mebibyte);
  world.outside.mapped = world.outside.disposed = 0;
  const auto work = combine_scan(client, input, many);
  other.ask_lease(60 * mebibyte);
  REQUIRE(client.status().waiting_for_memory() == 2);
  CHECK_FALSE(world.node.goes_on());
  CHECK(world.outside.mapped == 0);
  CHECK(world.outside.disposed == 0);
  const auto idle = client.status().memory_used_bytes();
  if (reserve > 0) {
    other.give_back(other.lease(mebibyte / 4));
    CHECK(world.outside.mapped == 1);  // only that one
    CHECK(client.status().memory_used_bytes() == idle);
  }
  holder.give_back(held);
  for (int turns = 0; world.node.goes_on() && turns < 100; ++turns) world.go_on();
  CHECK(client.done(work));
}

TEST_CASE("a request that waited in vain says who holds the store when it is given up") {
  auto settings = budget_of(4, 12 * mebibyte);
  settings.quota.reserve_bytes = 8 * mebibyte;
  World world(std::move(settings));
  TestClient holder(world, 1);
  TestClient waiting(world, 2);
  TestClient late(world, 3);
  TestClient stranger(world, 4, 2000);
  holder.lease(4 * mebibyte);
  waiting.ask_lease(mebibyte, 1000);
  REQUIRE_FALSE(has_segment(waiting));
  for (int i = 0; i < 4; ++i) late.lease(mebibyte / 4);
  world.advance(std::chrono::seconds(2));
  REQUIRE(waiting.failure() == Code::out_of_memory);
  const std::string message = waiting.reply().body_as_Failure()->message()->str();
  const auto late_text = "test (pid 1003): " + amount_text(Resource::memory, mebibyte + ipc::channel_bytes);
  CHECK_THAT(message, Catch::Contains("the largest holders are test (pid 1001): ") && Catch::Contains(late_text));
  // A request of another user is told of users, not of processes.
  stranger.ask_lease(4 * mebibyte, 0);
  world.advance(std::chrono::milliseconds(1));
  REQUIRE(stranger.failure() == Code::out_of_memory);
  const std::string told = stranger.reply().body_as_Failure()->message()->str();
  CHECK_THAT(told, Catch::Contains("the largest holders are uid 0: ") && !Catch::Contains("(pid 1001)"));
}

TEST_CASE("a full store whose memory is in pieces says so, and what keeps them") {
  World world(budget_of(2, 12 * mebibyte));
  TestClient holder(world, 1);
  TestClient waiting(world, 2);
  const auto refused = [&] {
    waiting.ask_lease(6 * mebibyte, 1000);
    world.advance(std::chrono::seconds(2));
    REQUIRE(waiting.failure() == Code::out_of_memory);
    const auto* failure = waiting.reply().body_as_Failure();
    return failure->message()->str() + " " + failure->hint()->str();
  };
  const auto segment = holder.lease(8 * mebibyte);
  // For the daemon it may be in use.
  CHECK_THAT(refused(), !Catch::Contains("pieces"));
  const auto object = holder.seal(segment, 0, std::vector<float>(mebibyte / 2));
  CHECK_THAT(refused(), Catch::Contains("6 MiB of the store are free pieces of segments that arrays keep") &&
                            Catch::Contains("muster ls shows large PINS"));
  holder.record(ipc::SubmissionType::release, ipc::Release{{object}});
  CHECK_THAT(refused(), !Catch::Contains("pieces"));
}

TEST_CASE("a lease waits in line behind an earlier one, and only as long as that one's client lives") {
  World world(budget_of(3, 4 * mebibyte));
  TestClient holder(world, 1);
  TestClient large(world, 2);
  TestClient small(world, 3);
  holder.lease(2 * mebibyte);
  large.ask_lease(3 * mebibyte);
  small.ask_lease(mebibyte);
  CHECK_FALSE(has_segment(large));
  CHECK_FALSE(has_segment(small));
  SECTION("the first one dies") {
    large.die();
    CHECK(has_segment(small));
  }
  SECTION("the holder dies") {
    holder.die();
    CHECK(has_segment(large));
    CHECK(has_segment(small));
  }
  SECTION("the deadline of both passes") {
    world.advance(std::chrono::seconds(2));
    CHECK(large.failure() == Code::out_of_memory);
    CHECK(small.failure() == Code::out_of_memory);
  }
}

TEST_CASE("a request that can never fit is refused at once and is in nobody's way") {
  World world(budget_of(3, 4 * mebibyte));
  TestClient holder(world, 1);
  TestClient greedy(world, 2);
  TestClient small(world, 3);
  holder.lease(2 * mebibyte);
  greedy.ask_lease(100 * mebibyte);
  CHECK(greedy.failure() == Code::out_of_memory);
  small.ask_lease(mebibyte);
  CHECK(has_segment(small));
}

TEST_CASE("a client for whose rings the system has no room is not charged, and gets them when there is room") {
  World world(budget_of(4, mebibyte));
  TestClient other(world, 1);
  const auto memory = [&] { return NodeAudit(world.node).charged()[static_cast<std::size_t>(Resource::memory)]; };
  const auto before = memory();
  world.outside.no_rings = muster::Error(Code::out_of_memory, "the system has no room for rings");
  auto newcomer = TestClient::not_yet_welcome(world, 2, true);
  CHECK(newcomer.replies() == 0);
  CHECK(memory() == before);
  CHECK(NodeAudit(world.node).contradictions().empty());
  SECTION("in time") {
    world.outside.no_rings.reset();
    other.die();
    CHECK(newcomer.welcomed());
  }
  SECTION("too late") {
    world.advance(std::chrono::seconds(2));
    CHECK(newcomer.failure() == Code::out_of_memory);
    CHECK(world.outside.closed.contains(newcomer.id()));
    CHECK(memory() == before);
  }
  SECTION("never: there are no descriptors either") {
    world.outside.no_rings = muster::Error(Code::quota_exceeded, "no descriptor is left");
    auto refused = TestClient::not_yet_welcome(world, 3, true);
    CHECK(refused.failure() == Code::quota_exceeded);
    CHECK(world.outside.closed.contains(refused.id()));
  }
  CHECK(NodeAudit(world.node).contradictions().empty());
}

TEST_CASE("a client waits in line for its rings, and a client that only asks does not") {
  World world(budget_of(1, mebibyte));
  TestClient holder(world, 1);
  holder.lease(mebibyte);
  auto newcomer = TestClient::not_yet_welcome(world, 2, true);
  CHECK(newcomer.replies() == 0);
  CHECK(TestClient::not_yet_welcome(world, 3, false).welcomed());
  SECTION("the holder dies") {
    holder.die();
    CHECK(newcomer.welcomed());
  }
  SECTION("the newcomer dies") {
    newcomer.die();
    CHECK(world.node.clients() == 2);
  }
  SECTION("the deadline passes") {
    world.advance(std::chrono::seconds(2));
    CHECK(newcomer.failure() == Code::out_of_memory);
    CHECK(world.outside.closed.contains(newcomer.id()));
  }
}

TEST_CASE("memory that a reader still maps is given to nobody else") {
  World world(budget_of(3, 2 * mebibyte));
  TestClient maker(world, 1);
  TestClient reader(world, 2);
  TestClient waiter(world, 3);
  const auto segment = maker.lease(mebibyte);
  reader.map(segment);
  waiter.ask_lease(2 * mebibyte);
  CHECK(reader.count(ipc::CompletionType::memory_wanted) == 1);
  maker.die();
  CHECK_FALSE(has_segment(waiter));
  REQUIRE(reader.count(ipc::CompletionType::segment_gone) == 1);
  SECTION("until it says so") { reader.record(ipc::SubmissionType::unmapped, ipc::Unmapped{segment}); }
  SECTION("until it is gone") { reader.die(); }
  CHECK(has_segment(waiter));
}

namespace {

/// Calls an allreduce of 64 refs of a bundle of `leaves` arrays: a large plan with a small result.
ipc::WorkId combine_bundle(TestClient& client, ipc::ObjectId bundle, std::uint64_t work) {
  ipc::Combine combine;
  combine.work = {work};
  combine.ranks = 64;
  combine.timeout_ns = Duration(std::chrono::seconds(30)).count();
  combine.objects.resize(combine.ranks, bundle);
  client.record(ipc::SubmissionType::combine, combine);
  return combine.work;
}

ipc::ObjectId seal_bundle(TestClient& client, std::uint32_t number, std::size_t leaves) {
  const auto segment = client.lease(mebibyte);
  ipc::Seal seal;
  seal.object = ipc::make_object_id(client.id(), number);
  for (std::size_t leaf = 0; leaf < leaves; ++leaf)
    seal.manifest.add(segment, 0, muster::DType::float32, std::vector<std::int64_t>{16}).value();
  client.record(ipc::SubmissionType::seal, seal);
  return seal.object;
}

}  // namespace

TEST_CASE("a large plan is charged while its op runs") {
  World world(budget_of(1, 8 * mebibyte));
  TestClient client(world, 1);
  const auto bundle = seal_bundle(client, 77, 1000);
  world.outside.jobs.hold = true;
  const auto before = client.status().memory_used_bytes();
  const auto work = combine_bundle(client, bundle, 100);
  REQUIRE_FALSE(client.done(work));
  CHECK(client.status().memory_used_bytes() >= before + 64 * 1000 * sizeof(void*));
  world.outside.jobs.end_all();
  REQUIRE(client.done(work));
  CHECK(client.status().memory_used_bytes() < before + mebibyte / 2);  // the result and its description
}

TEST_CASE("an op with a large plan waits for memory, and is the same op when it gets it") {
  World world(budget_of(2, 4 * mebibyte + mebibyte / 4));
  TestClient client(world, 1);
  TestClient holder(world, 2);
  const auto bundle = seal_bundle(client, 77, 1000);
  holder.lease(3 * mebibyte);
  const auto work = combine_bundle(client, bundle, 100);
  REQUIRE_FALSE(client.done(work));
  REQUIRE_FALSE(client.failed(work));
  SECTION("it gets the memory") {
    holder.die();
    REQUIRE(client.done(work));
    CHECK(client.done(work)->contributors == 64);
  }
  SECTION("it gets no memory until its deadline") {
    world.advance(std::chrono::seconds(31));
    REQUIRE(client.failed(work));
    CHECK(client.failed(work)->code() == Code::out_of_memory);
  }
}

namespace {

/// Results of ops fill the store, and nobody holds them any more.
struct FullOfFreeResults {
  explicit FullOfFreeResults(NodeSettings settings) : world(std::move(settings)) {
    first.join("g", 0, 2);
    second.join("g", 1, 2);
  }
  void fill(std::size_t results, std::size_t floats) {
    const auto bytes = floats * sizeof(float);
    const auto one = first.lease(bytes);
    const auto of_first = first.seal(one, 0, std::vector<float>(floats, 1.0F));
    const auto two = second.lease(bytes);
    const auto of_second = second.seal(two, 0, std::vector<float>(floats, 2.0F));
    std::vector<ipc::WorkId> works;
    for (std::size_t i = 0; i < results; ++i) {
      works.push_back(first.contribute(Kind::allreduce, {of_first}));
      const auto done = second.done(second.contribute(Kind::allreduce, {of_second}));
      REQUIRE(done);
      second.record(ipc::SubmissionType::release, ipc::Release{{done->items[0].object}});
    }
    for (const auto work : works)
      first.record(ipc::SubmissionType::release, ipc::Release{{first.done(work)->items[0].object}});
    first.record(ipc::SubmissionType::release, ipc::Release{{of_first}});
    second.record(ipc::SubmissionType::release, ipc::Release{{of_second}});
    first.give_back(one);
    second.give_back(two);
  }
  World world;
  TestClient first{world, 1};
  TestClient second{world, 2};
};

}  // namespace

TEST_CASE("whoever needs memory gets what free results keep") {
  constexpr std::size_t floats = 256 << 10;  // a mebibyte
  SECTION("a newcomer") {
    FullOfFreeResults full(budget_of(3, 8 * mebibyte));
    full.fill(5, floats);
    std::vector<TestClient> newcomers;
    // All that fit beside what the two ranks have.
    constexpr auto fit = static_cast<std::uint32_t>(6 * mebibyte / ipc::channel_bytes);
    for (std::uint32_t id = 3; id < 3 + fit; ++id) {
      newcomers.push_back(TestClient::not_yet_welcome(full.world, id, true));
      CHECK(newcomers.back().welcomed());
    }
  }
  SECTION("a lease, where its user's share is used up") {
    NodeSettings settings = budget_of(3, 16 * mebibyte);
    settings.quota.per_user[Resource::memory] = 8 * mebibyte;
    FullOfFreeResults full(settings);
    full.fill(4, floats);
    full.first.lease(5 * mebibyte);
  }
  SECTION("but not a client that has reached its own limit") {
    NodeSettings settings = budget_of(3, 64 * mebibyte);
    settings.quota.per_client[Resource::memory] = 4 * mebibyte;
    FullOfFreeResults full(settings);
    full.fill(4, floats);
    const auto kept = NodeAudit(full.world.node).charged()[Resource::memory];
    full.first.lease(2 * mebibyte);
    full.first.ask_lease(2 * mebibyte);
    CHECK(full.first.failure() == Code::quota_exceeded);
    CHECK(NodeAudit(full.world.node).charged()[Resource::memory] == kept + 2 * mebibyte);
  }
  SECTION("a newcomer, where the mappings are used up") {
    NodeSettings settings = budget_of(3, 64 * mebibyte);
    settings.quota.total[Resource::maps] = 8;
    FullOfFreeResults full(settings);
    full.fill(4, floats);
    const auto first = TestClient::not_yet_welcome(full.world, 3, true);
    auto second = TestClient::not_yet_welcome(full.world, 4, true);
    auto third = TestClient::not_yet_welcome(full.world, 5, true);
    CHECK(third.welcomed());
  }
}
