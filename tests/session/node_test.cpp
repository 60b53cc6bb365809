#include <catch2/catch.hpp>

#include <sys/socket.h>

#include <deque>
#include <set>

#include <muster/ipc/ring.hpp>
#include <muster/ipc/socket.hpp>

#include "client.hpp"
#include "walk/audit.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;
using muster::Code;

TEST_CASE("an allreduce over three clients gives each a hold of one result") {
  World world;
  std::vector<TestClient> clients;
  for (std::uint32_t id = 1; id <= 3; ++id) clients.emplace_back(world, id);
  std::vector<ipc::WorkId> works;
  for (int rank = 0; rank < 3; ++rank) {
    auto& client = clients[static_cast<std::size_t>(rank)];
    REQUIRE(client.join("g", rank, 3));
    const auto segment = client.lease(1 << 16);
    const auto object = client.seal(segment, 0, {1.0F, static_cast<float>(rank)});
    works.push_back(client.contribute(Kind::allreduce, {object}));
    if (rank < 2) REQUIRE_FALSE(client.done(works.back()));
  }
  std::set<std::uint64_t> results;
  for (std::size_t rank = 0; rank < 3; ++rank) {
    const auto done = clients[rank].done(works[rank]);
    REQUIRE(done);
    CHECK(done->contributors == 3);
    REQUIRE(done->items.size() == 1);
    CHECK(done->items[0].manifest.leaves.size() == 1);
    results.insert(done->items[0].object.value);
  }
  CHECK(results.size() == 1);
}

TEST_CASE_METHOD(TwoRanks, "a rank that dies before it contributed fails the op and all later ones with PeerLost") {
  const auto pending = first.contribute(Kind::barrier);
  second.die();
  REQUIRE(first.failed(pending));
  CHECK(first.failed(pending)->code() == Code::peer_lost);
  CHECK(first.failed(pending)->ranks() == std::vector<int>{1});
  const auto later = first.contribute(Kind::barrier);
  REQUIRE(first.failed(later));
  CHECK(first.failed(later)->code() == Code::peer_lost);
}

TEST_CASE_METHOD(TwoRanks, "a rank that contributed and then dies fails nothing that is pending") {
  second.contribute(Kind::barrier);
  second.die();
  CHECK(first.done(first.contribute(Kind::barrier)));
}

TEST_CASE_METHOD(TwoRanks, "reform takes the survivors and newcomers into a new epoch") {
  second.die();
  TestClient third(world, 3);
  const auto* joined = third.join("g", 1, 2);
  REQUIRE(joined);
  CHECK_FALSE(joined->member());
  const auto early = third.contribute(Kind::barrier);
  CHECK_FALSE(third.done(early));
  const auto reformed = first.contribute(Kind::reform);
  REQUIRE(first.done(reformed));
  CHECK(first.done(reformed)->epoch == 2);
  CHECK(first.done(reformed)->live == std::vector<std::int32_t>{0, 1});
  first.epoch = 2;
  const auto barrier = first.contribute(Kind::barrier);
  CHECK(first.done(barrier));
  CHECK(third.done(early));
}

TEST_CASE_METHOD(TwoRanks, "a newcomer whose group is never reformed times out") {
  second.die();
  TestClient third(world, 3);
  third.join("g", 1, 2);
  const auto early = third.contribute(Kind::barrier, {}, 0, std::chrono::seconds(1));
  world.advance(std::chrono::seconds(2));
  REQUIRE(third.failed(early));
  CHECK(third.failed(early)->code() == Code::timeout);
}

TEST_CASE_METHOD(TwoRanks, "when the last old member goes, the newcomers begin afresh") {
  second.die();
  TestClient third(world, 3);
  TestClient fourth(world, 4);
  third.join("g", 1, 2);
  const auto early = third.contribute(Kind::barrier);
  first.die();
  REQUIRE(fourth.join("g", 0, 2));
  const auto barrier = fourth.contribute(Kind::barrier);
  CHECK(fourth.done(barrier));
  CHECK(third.done(early));
}

TEST_CASE_METHOD(TwoRanks, "a client may ask for which ranks its own work waits, until that is over") {
  const auto one = first.contribute(Kind::barrier);
  const auto other = first.contribute(Kind::recv, {}, 1);
  CHECK(first.missing(one) == std::vector{1});
  CHECK(first.missing(other) == std::vector{1});
  CHECK(second.missing(one).empty());
  second.contribute(Kind::barrier);
  CHECK(first.missing(one).empty());
}

TEST_CASE_METHOD(TwoRanks, "works with numbers that collide still have their outcomes") {
  const ipc::WorkId work{5};
  const ipc::WorkId alike{5 + (std::uint64_t{1} << 32)};
  first.contribute_as(work, Kind::barrier);
  first.contribute_as(alike, Kind::barrier);
  first.contribute_as(work, Kind::barrier);
  CHECK(first.missing(work) == std::vector{1});
  CHECK(first.missing(alike).empty());
  for (int i = 0; i < 3; ++i) second.contribute(Kind::barrier);
  CHECK(first.count(ipc::CompletionType::done) == 3);
  CHECK(first.done(alike));
  CHECK(world.node.ops_in_flight() == 0);
}

TEST_CASE("under wait a replacement is told what it owes and the op completes") {
  World world;
  TestClient first(world, 1);
  TestClient second(world, 2);
  first.join("g", 0, 2, muster::OnLoss::wait);
  second.join("g", 1, 2, muster::OnLoss::wait);
  const auto pending = first.contribute(Kind::barrier);
  second.die();
  CHECK_FALSE(first.failed(pending));
  TestClient third(world, 3);
  const auto* joined = third.join("g", 1, 2, muster::OnLoss::wait);
  REQUIRE(joined);
  CHECK(joined->position() == 0);
  REQUIRE(joined->owes()->size() == 1);
  third.contribute(Kind::barrier);
  CHECK(first.done(pending));
}

TEST_CASE("a seat that owes more than fits into one reply is not taken over") {
  World world;
  TestClient first(world, 1);
  TestClient second(world, 2);
  first.join("g", 0, 2, muster::OnLoss::wait);
  second.join("g", 1, 2, muster::OnLoss::wait);
  second.die();
  const std::string key(4000, 'k');
  constexpr int ops = 300;
  for (int i = 0; i < ops; ++i)
    first.contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), key + std::to_string(i));
  TestClient third(world, 3);
  CHECK_FALSE(third.join("g", 1, 2, muster::OnLoss::wait));
  CHECK(third.failure() == Code::quota_exceeded);
  while (first.count(ipc::CompletionType::failed) < ops) world.advance(std::chrono::seconds(31));
  const auto* joined = third.join("g", 1, 2, muster::OnLoss::wait);
  REQUIRE(joined);
  CHECK(joined->owes()->size() == 0);
}

TEST_CASE_METHOD(TwoRanks, "ops whose deadlines pass at once fail in pieces, and each fails once") {
  constexpr std::size_t ops = 1500;
  for (std::size_t i = 0; i < ops; ++i)
    first.contribute(Kind::barrier, {}, 0, std::chrono::seconds(1), i % 2 == 0 ? std::to_string(i) : std::string());
  std::size_t failed = 0;
  for (int ticks = 0; failed < ops; ++ticks) {
    REQUIRE(ticks < 30);
    CHECK(world.node.next_deadline());
    world.advance(ticks == 0 ? std::chrono::seconds(2) : std::chrono::seconds(0));
    const auto now = first.count(ipc::CompletionType::failed);
    CHECK(now - failed <= 256);
    CHECK(now > failed);
    failed = now;
  }
  CHECK(failed == ops);
  CHECK_FALSE(world.node.next_deadline());
}

TEST_CASE_METHOD(TwoRanks, "a newcomer's ops whose deadlines pass at once fail in pieces, too") {
  second.die();
  TestClient third(world, 3);
  third.join("g", 1, 2);
  constexpr std::size_t ops = 600;
  for (std::size_t i = 0; i < ops; ++i) third.contribute(Kind::barrier, {}, 0, std::chrono::seconds(1));
  world.advance(std::chrono::seconds(2));
  CHECK(third.count(ipc::CompletionType::failed) == 256);
  for (int ticks = 0; ticks < 3; ++ticks) world.advance(std::chrono::seconds(0));
  CHECK(third.count(ipc::CompletionType::failed) == ops);
}

TEST_CASE("split makes a group for each color") {
  World world;
  std::vector<TestClient> clients;
  for (std::uint32_t id = 1; id <= 3; ++id) clients.emplace_back(world, id);
  for (int rank = 0; rank < 3; ++rank) clients[static_cast<std::size_t>(rank)].join("g", rank, 3);
  std::vector<ipc::WorkId> works;
  const int colors[]{5, -1, 5};
  for (std::size_t rank = 0; rank < 3; ++rank) works.push_back(clients[rank].contribute(Kind::split, {}, colors[rank]));
  const auto first = clients[0].done(works[0]);
  const auto last = clients[2].done(works[2]);
  REQUIRE(first);
  REQUIRE(last);
  CHECK(first->world_size == 2);
  CHECK(first->rank == 0);
  CHECK(last->rank == 1);
  CHECK(first->name == last->name);
  REQUIRE(clients[1].done(works[1]));
  CHECK_FALSE(clients[1].done(works[1])->seat);
}

TEST_CASE("subgroups of a group that was made again are not those of the first group") {
  World world;
  TestClient first(world, 1);
  TestClient second(world, 2);
  const auto split = [&] {
    first.join("g", 0, 2);
    second.join("g", 1, 2);
    const auto work = first.contribute(Kind::split);
    second.contribute(Kind::split);
    const ipc::Done done = first.done(work).value();
    first.leave();
    second.leave();
    return done;
  };
  const auto older = split();
  const auto newer = split();
  CHECK(older.name != newer.name);
  // Ops of the older group still end at their deadlines.
  first.seat = older.seat;
  first.epoch = older.epoch;
  const auto work = first.contribute(Kind::barrier, {}, 0, std::chrono::seconds(1));
  world.advance(std::chrono::seconds(2));
  REQUIRE(first.failed(work));
  CHECK(first.failed(work)->code() == Code::timeout);
}

TEST_CASE("a split that would make too many groups fails on every rank and leaves nothing") {
  auto settings = small_settings();
  const auto groups = static_cast<std::size_t>(Resource::groups);
  SECTION("groups") { settings.quota.total[groups] = settings.quota.per_user[groups] = 2; }
  SECTION("seats") { settings.seats_max = 1; }
  World world(settings);
  TestClient first(world, 1);
  TestClient second(world, 2);
  first.join("g", 0, 2);
  second.join("g", 1, 2);
  const auto of_first = first.contribute(Kind::split, {}, 0);
  const auto of_second = second.contribute(Kind::split, {}, 1);
  for (auto* client : {&first, &second}) {
    const auto failed = client->failed(client == &first ? of_first : of_second);
    REQUIRE(failed);
    CHECK(failed->code() == Code::quota_exceeded);
  }
  CHECK(first.groups().total() == 1);
}

TEST_CASE("groups that members of an open group split among themselves are charged to them") {
  auto settings = small_settings();
  const auto groups = static_cast<std::size_t>(Resource::groups);
  settings.quota.total[groups] = 100;
  settings.quota.per_user[groups] = 4;
  World world(settings);
  TestClient owner(world, 1, 1000);
  TestClient guest(world, 2, 2000);
  TestClient other(world, 3, 2000);
  REQUIRE(owner.join("g", 0, 3, muster::OnLoss::fail, true));
  REQUIRE(guest.join("g", 1, 3, muster::OnLoss::fail, true));
  REQUIRE(other.join("g", 2, 3, muster::OnLoss::fail, true));
  REQUIRE(owner.contribute(Kind::split, {}, -1));
  int made = 0;
  for (;; ++made) {
    const auto of_guest = guest.contribute(Kind::split);
    const auto of_other = other.contribute(Kind::split);
    const auto done = guest.done(of_guest);
    if (!done) {
      CHECK(guest.failed(of_guest)->code() == Code::quota_exceeded);
      break;
    }
    guest.seat = done->seat;
    other.seat = other.done(of_other)->seat;
    guest.epoch = other.epoch = done->epoch;
  }
  CHECK(made == 4);
  for (int each = 0; each < 3; ++each) CHECK(owner.join("own " + std::to_string(each), 0, 1));
}

TEST_CASE("a rank that died before a split is lost in the new group, by the group's policy") {
  World world;
  TestClient first(world, 1);
  TestClient second(world, 2);
  first.join("g", 0, 2, muster::OnLoss::shrink);
  second.join("g", 1, 2, muster::OnLoss::shrink);
  second.contribute(Kind::split);
  second.die();
  const auto work = first.contribute(Kind::split);
  const auto done = first.done(work);
  REQUIRE(done);
  first.seat = done->seat;
  first.epoch = done->epoch;
  CHECK(first.done(first.contribute(Kind::barrier)));
}

TEST_CASE("only processes that ask for an open group join it") {
  World world;
  TestClient owner(world, 1, 1000);
  TestClient guest(world, 2, 2000);
  TestClient other(world, 3, 2000);
  TestClient same(world, 4, 1000);
  REQUIRE(owner.join("g", 0, 2, muster::OnLoss::fail, true));
  REQUIRE(guest.join("g", 1, 2, muster::OnLoss::fail, true));
  // A user's own group with the same name is another group.
  REQUIRE(other.join("g", 0, 2));
  TestClient root(world, 5, 0);
  CHECK(root.groups().total() == 2);
  CHECK(owner.groups().total() == 1);
  // The owner's own ranks must give the same setting.
  CHECK_FALSE(same.join("g", 1, 2));
  CHECK(same.failure() == Code::invalid);
}

TEST_CASE("only the daemon's own user and root may end it") {
  auto settings = small_settings();
  settings.user = 1000;
  World world(settings);
  TestClient stranger(world, 1, 2000);
  stranger.stop();
  CHECK(stranger.failure() == Code::denied);
  CHECK(world.outside.stopped.empty());
  TestClient own(world, 2, GENERATE(0U, 1000U));
  own.stop();
  CHECK(own.reply().body_type() == wire::Body_Ok);
  CHECK_FALSE(world.outside.stopped.empty());
}

TEST_CASE("a long list of groups ends where its reply would be too long") {
  World world;
  TestClient client(world, 1);
  constexpr int groups = 60;
  for (int group = 0; group < groups; ++group) REQUIRE(client.join("g" + std::to_string(group), 0, world_size_max));
  const auto& listed = client.groups();
  CHECK(listed.total() == groups);
  CHECK(listed.groups()->size() > 1);
  CHECK(world.outside.frames[client.id()].back().size() < ipc::frame_bytes_max / 2);
}

TEST_CASE("the status lists the largest of many users, and how many there are") {
  auto settings = small_settings();
  settings.quota.total[static_cast<std::size_t>(Resource::fds)] = 1000;
  World world(settings);
  TestClient root(world, 1);
  constexpr std::uint32_t users = 150;
  constexpr std::uint32_t first_user = 2000;
  for (std::uint32_t i = 0; i < users; ++i)
    REQUIRE(world.node.connected(ClientId{10 + i}, {first_user + i, 100}, world.now));
  CHECK(root.status().users()->size() == 100);
  CHECK(root.status().users_total() == users + 1);
  for (std::uint32_t i = 0; i < users; ++i)
    static_cast<void>(world.node.disconnected(ClientId{10 + i}, "closed its connection", world.now));
  CHECK(root.status().users_total() == 1);
}

TEST_CASE("ops in flight are charged to the client that started them") {
  World world;
  TestClient client(world, 1);
  client.join("g", 0, 2);
  const auto in_flight = [&] { return client.status().users()->Get(0)->in_flight(); };
  const auto work = client.contribute(Kind::barrier, {}, 0, std::chrono::seconds(1));
  client.contribute(Kind::barrier, {}, 0, std::chrono::seconds(3));
  CHECK(in_flight() == 2);
  world.advance(std::chrono::seconds(2));
  REQUIRE(client.failed(work));
  CHECK(in_flight() == 1);
  client.leave();
  CHECK(in_flight() == 0);
}

TEST_CASE_METHOD(TwoRanks, "ops that a newcomer called before it left end as GroupClosed") {
  second.die();
  TestClient third(world, 3);
  third.join("g", 1, 2);
  const auto early = third.contribute(Kind::barrier);
  third.leave();
  REQUIRE(third.failed(early));
  CHECK(third.failed(early)->code() == Code::group_closed);
}

namespace {

/// Seals an object of `leaves` arrays of one byte, all at the same place.
ipc::ObjectId seal_bundle(TestClient& client, ipc::SegmentId segment, std::uint32_t number, std::size_t leaves,
                          std::string structure = {}) {
  ipc::Seal seal;
  seal.object = ipc::make_object_id(client.id(), number);
  for (std::size_t leaf = 0; leaf < leaves; ++leaf)
    seal.manifest.add(segment, 0, muster::DType::uint8, std::vector<std::int64_t>{}).value();
  seal.manifest.structure = std::move(structure);
  client.record(ipc::SubmissionType::seal, seal);
  return seal.object;
}

std::optional<muster::Error> combine(TestClient& client, Kind kind, std::size_t ranks, ipc::ObjectId object,
                                     std::size_t each = 1) {
  static std::uint64_t work = 100;
  ipc::Combine combine;
  combine.work = {++work};
  combine.kind = kind;
  combine.ranks = static_cast<std::uint32_t>(ranks);
  combine.objects.resize(ranks * each, object);
  client.record(ipc::SubmissionType::combine, combine);
  return client.failed(combine.work);
}

}  // namespace

TEST_CASE("inputs that can't be checked quickly are refused at once") {
  World world;
  TestClient client(world, 1);
  const auto segment = client.lease(1 << 16);
  const auto refused = [&](Kind kind, std::size_t ranks, ipc::ObjectId object, std::size_t each) {
    const auto error = combine(client, kind, ranks, object, each);
    REQUIRE(error);
    CHECK(error->code() == Code::invalid);
    return error->message();
  };
  CHECK(refused(Kind::allgather, 1000, seal_bundle(client, segment, 77, 1 << 14), 1) ==
        "the inputs are 16384000 arrays in all");
  CHECK(refused(Kind::all_to_all, 1000, seal_bundle(client, segment, 78, 0), 1000) ==
        "the inputs are 1000000 objects in all");
  CHECK(refused(Kind::allgather, 1000, seal_bundle(client, segment, 79, 1, std::string(1 << 19, 'x')), 1) ==
        "the inputs are 524288000 bytes of names and constants in all");
}

TEST_CASE("one call can't make the daemon plan millions of arrays") {
  World world;
  TestClient client(world, 1);
  const auto bundle = seal_bundle(client, client.lease(1 << 16), 77, 256);
  const auto before = world.node.ops_in_flight();
  for (const Kind kind : {Kind::scan, Kind::allreduce}) {
    const auto error = combine(client, kind, 1024, bundle);
    REQUIRE(error);
    CHECK(error->code() == Code::invalid);
    CHECK(error->message().find("of 1024 ranks would read too many arrays: 262144 of at most 131072") !=
          std::string::npos);
  }
  CHECK(world.node.ops_in_flight() == before);
  CHECK_FALSE(combine(client, Kind::scan, 64, bundle));
}

TEST_CASE("a lookup comes after what its maker has published, and needs the capability") {
  World world;
  TestClient maker(world, 1);
  TestClient reader(world, 2);
  const auto object = maker.seal(maker.lease(1 << 16), 0, {1.0F});
  const auto ask = [&](std::uint64_t secret, std::uint64_t incarnation) {
    FrameBuilder out(9);
    const wire::Capability capability(42, secret);
    reader.ask(out, wire::Body_Lookup,
               wire::CreateLookup(out.fbb, incarnation, object.value, true, &capability).Union());
  };
  ask(1, 7);
  CHECK(reader.reply().body_type() == wire::Body_Object);
  CHECK(world.outside.rings_read == std::vector{maker.id()});
  ask(2, 7);
  CHECK(reader.failure() == Code::denied);
  ask(1, 8);
  CHECK(reader.failure() == Code::daemon_restarted);
}

TEST_CASE("a full store makes a lease wait, then go on when memory comes back") {
  World world;
  TestClient first(world, 1);
  TestClient second(world, 2);
  first.lease(40 << 20);
  const auto before = second.replies();
  second.ask_lease(40 << 20);
  CHECK(second.replies() == before);
  first.die();
  REQUIRE(second.replies() == before + 1);
  CHECK(second.reply().body_type() == wire::Body_Segment);
}

TEST_CASE("a lease that waits in vain gets OutOfMemory") {
  World world;
  TestClient first(world, 1);
  TestClient second(world, 2);
  first.lease(40 << 20);
  second.ask_lease(40 << 20, 500);
  world.advance(std::chrono::seconds(1));
  CHECK(second.failure() == Code::out_of_memory);
}

TEST_CASE("the maker of an object is told of its end") {
  World world;
  TestClient maker(world, 1);
  const auto object = maker.seal(maker.lease(1 << 16), 0, {1.0F});
  maker.record(ipc::SubmissionType::release, ipc::Release{{object}});
  CHECK(maker.count(ipc::CompletionType::object_gone) == 1);
}

TEST_CASE("a life line holds what its client held until it is closed") {
  World world;
  TestClient parent(world, 1);
  const auto object = parent.seal(parent.lease(1 << 16), 0, {1.0F});
  FrameBuilder out(5);
  parent.ask(out, wire::Body_Fork, wire::CreateFork(out.fbb).Union());
  REQUIRE(world.outside.lifelines.size() == 1);
  parent.record(ipc::SubmissionType::release, ipc::Release{{object}});
  CHECK(parent.count(ipc::CompletionType::object_gone) == 0);
  world.node.lifeline_closed(*world.outside.lifelines.begin(), world.now);
  CHECK(parent.count(ipc::CompletionType::object_gone) == 1);
}

TEST_CASE("requests before Hello, second Hellos and unknown records end the connection") {
  World world;
  SECTION("before Hello") {
    REQUIRE(world.node.connected({9}, {0, 1}, world.now));
    FrameBuilder out(1);
    const auto bytes = out.finish(wire::Body_StatusQuery, wire::CreateStatusQuery(out.fbb).Union());
    world.node.frame({9}, bytes, world.now);
    CHECK(world.outside.closed.contains(ClientId{9}));
  }
  SECTION("second Hello") {
    TestClient client(world, 1);
    FrameBuilder out(2);
    client.ask(out, wire::Body_Hello, wire::CreateHello(out.fbb, ipc::protocol_version).Union());
    CHECK(world.outside.closed.contains(client.id()));
  }
  SECTION("a record without a type") {
    TestClient client(world, 1);
    world.node.record(client.id(), static_cast<ipc::SubmissionType>(99), {}, world.now);
    CHECK(world.outside.closed.contains(client.id()));
  }
  SECTION("a protocol that it doesn't speak") {
    REQUIRE(world.node.connected({9}, {0, 1}, world.now));
    FrameBuilder out(1);
    const auto bytes = out.finish(wire::Body_Hello, wire::CreateHello(out.fbb, 999).Union());
    world.node.frame({9}, bytes, world.now);
    CHECK(world.outside.closed.contains(ClientId{9}));
    CHECK(wire::GetFrame(world.outside.frames[{9}].back().data())->body_type() == wire::Body_Failure);
  }
}

TEST_CASE("a client can't use another client's objects and seats") {
  World world;
  TestClient first(world, 1);
  TestClient second(world, 2);
  const auto object = first.seal(first.lease(1 << 16), 0, {1.0F});
  first.join("g", 0, 2);
  second.join("g", 1, 2);
  const auto stolen = second.contribute(Kind::allreduce, {object});
  REQUIRE(second.failed(stolen));
  second.seat = first.seat;
  const auto impostor = second.contribute(Kind::barrier);
  REQUIRE(second.failed(impostor));
  CHECK(second.failed(impostor)->code() == Code::group_closed);
}

TEST_CASE("shutting down fails pending ops and sends Goodbye") {
  World world;
  TestClient client(world, 1);
  client.join("g", 0, 2);
  const auto pending = client.contribute(Kind::barrier);
  world.node.shut_down("test", world.now);
  REQUIRE(client.failed(pending));
  CHECK(client.failed(pending)->code() == Code::daemon_unavailable);
  CHECK(client.reply().body_type() == wire::Body_Goodbye);
}

TEST_CASE("ops over refs of one process are complete at once, and disagreement is reported") {
  World world;
  TestClient client(world, 1);
  const auto segment = client.lease(1 << 16);
  const auto a = client.seal(segment, 0, {1.0F, 2.0F});
  const auto b = client.seal(segment, 64, {3.0F, 4.0F});
  const auto c = client.seal(segment, 128, {3.0F});
  ipc::Combine combine;
  combine.work = {100};
  combine.ranks = 2;
  combine.objects = {a, b};
  client.record(ipc::SubmissionType::combine, combine);
  REQUIRE(client.done({100}));
  CHECK(client.done({100})->items.size() == 1);
  combine.work = {101};
  combine.objects = {a, c};
  client.record(ipc::SubmissionType::combine, combine);
  REQUIRE(client.failed({101}));
  CHECK(client.failed({101})->code() == Code::mismatch);
}

namespace {

/// Clients whose ops are large enough for the lanes.
struct Crowd {
  TestClient& connect(Credentials credentials) {
    const auto id = static_cast<std::uint32_t>(clients.size()) + 1;
    clients.emplace_back(world, id, credentials);
    return clients.back();
  }
  static ipc::ObjectId put(TestClient& client) {
    constexpr std::size_t floats = 1 << 17;
    return client.seal(client.lease(1 << 20), 0, std::vector<float>(floats, 1.0F));
  }
  /// Returns the process whose turns the client's combine takes.
  Process combine(TestClient& client) {
    ipc::Combine combine;
    combine.work = {1000};
    combine.ranks = 2;
    combine.objects = {put(client), put(client)};
    client.record(ipc::SubmissionType::combine, combine);
    return world.outside.jobs.turns_of.back();
  }
  World world;
  std::deque<TestClient> clients;
};

}  // namespace

TEST_CASE_METHOD(Crowd, "all connections of a process take turns on the lanes as one") {
  const auto first = combine(connect({.user = 5, .pid = 70}));
  CHECK(combine(connect({.user = 5, .pid = 70})) == first);
  CHECK(combine(connect({.user = 5, .pid = 71})) != first);
  CHECK(combine(connect({.user = 6, .pid = 70})) != first);
  // If the daemon can't see processes, each connection counts as one.
  auto& unseen = connect({.user = 5, .pid = 0});
  const auto one = combine(unseen);
  CHECK(combine(unseen) == one);
  CHECK(combine(connect({.user = 5, .pid = 0})) != one);
}

TEST_CASE_METHOD(Crowd, "a group's op takes the turns of its lowest rank's process, even when that has gone") {
  auto& zero = connect({.user = 5, .pid = 70});
  auto& one = connect({.user = 5, .pid = 71});
  const auto own = combine(connect({.user = 5, .pid = 70}));
  REQUIRE(zero.join("g", 0, 2));
  REQUIRE(one.join("g", 1, 2));
  zero.contribute(Kind::allreduce, {put(zero)});
  zero.die();
  one.contribute(Kind::allreduce, {put(one)});
  REQUIRE(world.outside.jobs.turns_of.size() == 2);
  CHECK(world.outside.jobs.turns_of.back() == own);
}

namespace {

/// The first client has died, and some of its fifty seats are still to be lost.
struct HalfForgotten {
  HalfForgotten() {
    for (int rank = 0; rank < 50; ++rank) REQUIRE(first.join("g", rank, 51, muster::OnLoss::wait));
    REQUIRE(second.join("g", 50, 51, muster::OnLoss::wait));
    first.die();
    REQUIRE(world.node.goes_on());
  }
  static NodeSettings settings() {
    auto settings = small_settings();
    settings.seats_max = 100;
    return settings;
  }
  World world{settings()};
  TestClient first{world, 1};
  TestClient second{world, 2};
};

}  // namespace

TEST_CASE_METHOD(HalfForgotten, "a seat of a client that is half forgotten can be taken at once") {
  TestClient third(world, 3);
  for (const int rank : {49, 0, 25}) REQUIRE(third.join("g", rank, 51, muster::OnLoss::wait));
  while (world.node.goes_on()) world.go_on();
  for (const int rank : {1, 48}) REQUIRE(third.join("g", rank, 51, muster::OnLoss::wait));
  CHECK_FALSE(third.join("g", 25, 51, muster::OnLoss::wait));
  CHECK(NodeAudit(world.node).contradictions().empty());
}

TEST_CASE("a client that has reached its limit of mappings is refused, and ops of others go on") {
  auto settings = small_settings();
  const auto maps = static_cast<std::size_t>(Resource::maps);
  settings.quota.total[maps] = 16;
  settings.quota.per_user[maps] = 12;
  settings.quota.per_client[maps] = 8;
  TwoRanks ranks(settings);
  TestClient greedy(ranks.world, 3);
  std::vector<ipc::SegmentId> segments;
  for (;;) {
    greedy.ask_lease(4096);
    const auto* segment = greedy.reply().body_as_Segment();
    if (!segment) break;
    segments.push_back({segment->segment()});
  }
  CHECK(greedy.failure() == Code::quota_exceeded);
  CHECK(greedy.reply().body_as_Failure()->message()->str() ==
        "client 3 holds 8 of at most 8 memory mappings; the request asks for 1 more");
  CHECK(segments.size() == 7);  // the eighth mapping is that of its rings
  std::vector<ipc::WorkId> works;
  for (auto* rank : {&ranks.first, &ranks.second})
    works.push_back(rank->contribute(Kind::allgather, {rank->seal(ipc::Manifest(), {})}));
  CHECK(ranks.first.done(works[0]));
  CHECK(ranks.second.done(works[1]));
  CHECK(ranks.first.status().maps_used() == 10);
  CHECK(ranks.first.status().users()->Get(0)->maps() == 10);
  // All clients of its user may hold twelve: two segments more.
  ranks.first.lease(4096);
  ranks.second.lease(4096);
  ranks.first.ask_lease(4096);
  CHECK(ranks.first.failure() == Code::quota_exceeded);
  CHECK(NodeAudit(ranks.world.node).contradictions().empty());
  greedy.give_back(segments.back());
  ranks.first.lease(4096);
  greedy.die();
  CHECK(ranks.first.status().maps_used() == 5);
}

TEST_CASE("an op whose result can't be mapped fails on every rank, and so does a newcomer") {
  auto settings = small_settings();
  settings.quota.total[static_cast<std::size_t>(Resource::maps)] = 4;
  TwoRanks ranks(settings);
  std::vector<ipc::WorkId> works;
  for (auto* rank : {&ranks.first, &ranks.second})
    works.push_back(rank->contribute(Kind::allreduce, {rank->seal(rank->lease(4096), 0, {1, 2})}));
  const auto first = ranks.first.failed(works[0]);
  const auto second = ranks.second.failed(works[1]);
  REQUIRE(first);
  REQUIRE(second);
  CHECK(first->code() == Code::quota_exceeded);
  CHECK(first->message().find("4 of at most 4 memory mappings") != std::string::npos);
  CHECK(second->message() == first->message());
  auto newcomer = TestClient::not_yet_welcome(ranks.world, 3, true);
  CHECK(newcomer.failure() == Code::quota_exceeded);
  CHECK(ranks.world.outside.closed.contains(newcomer.id()));
  CHECK(NodeAudit(ranks.world.node).contradictions().empty());
}

TEST_CASE("a client with many segments is forgotten in pieces, and so is one that reads many") {
  auto settings = small_settings();
  for (auto* amounts : {&settings.quota.total, &settings.quota.per_user, &settings.quota.per_client})
    (*amounts)[static_cast<std::size_t>(Resource::fds)] = 4096;
  World world(settings);
  TestClient writer(world, 1);
  TestClient reader(world, 2);
  TestClient onlooker(world, 3);
  constexpr std::size_t many = 500;
  for (std::size_t i = 0; i < many; ++i) reader.map(writer.lease(4096));
  const auto memory = onlooker.status().memory_used_bytes();
  const auto told = [&] { return reader.count(ipc::CompletionType::segment_gone); };
  writer.die();
  REQUIRE(world.node.goes_on());
  int turns = 0;
  for (; world.node.goes_on() && turns < 100; ++turns) {
    const std::size_t before = told();
    world.go_on();
    CHECK(told() - before <= SegmentTable::drops_of_turn);
    CHECK(NodeAudit(world.node).contradictions().empty());
  }
  CHECK(turns > 2);
  CHECK(told() == many);
  CHECK(onlooker.status().segments() == 0);
  CHECK(onlooker.status().memory_used_bytes() == memory - ipc::channel_bytes);  // the reader still has them
  reader.die();
  REQUIRE(world.node.goes_on());
  for (turns = 0; world.node.goes_on() && turns < 100; ++turns) {
    world.go_on();
    CHECK(NodeAudit(world.node).contradictions().empty());
  }
  CHECK(turns > 2);
  CHECK(onlooker.status().memory_used_bytes() == ipc::channel_bytes);
  onlooker.die();
  CHECK(NodeAudit(world.node).left_over().empty());
}

TEST_CASE("a client with many seats among many ops is forgotten in pieces, and its peers are told once") {
  World world(HalfForgotten::settings());
  TestClient first(world, 1);
  TestClient second(world, 2);
  for (int rank = 0; rank < 50; ++rank) REQUIRE(first.join("g", rank, 51, muster::OnLoss::fail));
  REQUIRE(second.join("g", 50, 51, muster::OnLoss::fail));
  for (int i = 0; i < 2000; ++i) second.contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), std::to_string(i));
  world.outside.take(second.id());
  first.die();
  REQUIRE(world.node.goes_on());
  int turns = 0;
  for (; world.node.goes_on(); ++turns) world.go_on();
  CHECK(turns > 10);
  const auto told = world.outside.take(second.id());
  CHECK(std::count_if(told.begin(), told.end(), [](const auto& completion) {
          return completion.type == ipc::CompletionType::group_changed;
        }) == 1);
}

TEST_CASE("the members of very many groups are told of one loss in pieces, each once") {
  constexpr int groups = 600;
  auto settings = small_settings();
  settings.seats_max = groups;
  constexpr auto of_groups = static_cast<std::size_t>(Resource::groups);
  settings.quota.total[of_groups] = settings.quota.per_user[of_groups] = settings.quota.per_client[of_groups] = groups;
  World world(settings);
  TestClient first(world, 1);
  TestClient second(world, 2);
  const bool one_is_large = GENERATE(false, true);
  if (one_is_large) {
    REQUIRE(first.join("g", 0, groups + 1, muster::OnLoss::shrink));
    for (int rank = 1; rank <= groups; ++rank) REQUIRE(second.join("g", rank, groups + 1, muster::OnLoss::shrink));
  } else {
    for (int group = 0; group < groups; ++group) {
      REQUIRE(first.join(std::to_string(group), 0, 2));
      REQUIRE(second.join(std::to_string(group), 1, 2));
    }
  }
  const auto told = [&] { return second.count(ipc::CompletionType::group_changed); };
  first.die();
  std::size_t most = told();
  while (world.node.goes_on()) {
    const std::size_t before = told();
    world.go_on();
    most = std::max(most, told() - before);
  }
  CHECK(told() == groups);
  CHECK(most <= 256);
  std::set<std::uint32_t> seats;
  for (const auto& completion : world.outside.take(second.id()))
    if (completion.type == ipc::CompletionType::group_changed) {
      const auto changed = ipc::read_group_changed(completion.body).value();
      seats.insert(changed.seat.value);
      CHECK(changed.lost == std::vector{0});
    }
  CHECK(seats.size() == groups);
}

namespace {

/// Four clients. The first three have many ops that wait for the fourth.
struct ManyWait {
  explicit ManyWait(muster::OnLoss policy) {
    for (std::uint32_t id = 1; id <= 4; ++id) clients.emplace_back(world, id);
    for (int rank = 0; rank < 4; ++rank) clients[static_cast<std::size_t>(rank)].join("g", rank, 4, policy);
    for (std::size_t rank = 0; rank < 3; ++rank)
      for (int op = 0; op < each; ++op)
        works.emplace_back(rank, contribute(rank, std::to_string(rank) + " " + std::to_string(op)));
  }
  ipc::WorkId contribute(std::size_t rank, std::string key) {
    return clients[rank].contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), std::move(key));
  }
  [[nodiscard]] std::size_t told() {
    std::size_t count = 0;
    for (auto& client : clients)
      count += client.count(ipc::CompletionType::failed) + client.count(ipc::CompletionType::done);
    return count;
  }
  /// Lets the node go on to the end. Returns how many the clients were told in one turn at most, this event included.
  [[nodiscard]] std::size_t most_told_at_once(std::size_t told_before) {
    std::size_t most = told() - told_before;
    while (world.node.goes_on()) {
      const std::size_t before = told();
      world.go_on();
      most = std::max(most, told() - before);
    }
    return most;
  }
  void check_all_failed(Code code) {
    for (const auto& [rank, work] : works) {
      const auto failed = clients[rank].failed(work);
      REQUIRE(failed);
      REQUIRE(failed->code() == code);
    }
    CHECK(world.node.ops_in_flight() == 0);
    CHECK(NodeAudit(world.node).contradictions().empty());
  }

  static constexpr int each = 1000;
  static constexpr std::size_t few = 256;
  World world;
  std::vector<TestClient> clients;
  std::vector<std::pair<std::size_t, ipc::WorkId>> works;
};

}  // namespace

TEST_CASE("thousands of ops that wait for a rank fail in pieces when it goes") {
  ManyWait scene(muster::OnLoss::fail);
  const auto before = scene.told();
  SECTION("it dies") { scene.clients[3].die(); }
  SECTION("it leaves") { scene.clients[3].leave(); }
  CHECK(NodeAudit(scene.world.node).contradictions().empty());
  CHECK(scene.most_told_at_once(before) <= ManyWait::few);
  scene.check_all_failed(Code::peer_lost);
}

TEST_CASE("a rank that calls an op between a loss and the op's turn gets the same outcome as the others") {
  ManyWait scene(muster::OnLoss::fail);
  scene.clients[3].die();
  const std::string last = std::to_string(ManyWait::each - 1);
  const auto [rank, work] = scene.works.back();
  REQUIRE_FALSE(scene.clients[rank].failed(work));
  const auto late = scene.contribute(0, "2 " + last);
  REQUIRE(scene.clients[0].failed(late));
  REQUIRE(scene.clients[rank].failed(work));
  CHECK(scene.clients[0].failed(late)->describe() == scene.clients[rank].failed(work)->describe());
  CHECK(scene.clients[0].failed(late)->ranks() == std::vector<int>{3});
  CHECK(scene.most_told_at_once(scene.told()) <= ManyWait::few);
  scene.check_all_failed(Code::peer_lost);
}

TEST_CASE("ops whose deadline passes before they have learned of a loss learn of it first") {
  ManyWait scene(muster::OnLoss::fail);
  const auto before = scene.told();
  scene.clients[3].die();
  REQUIRE(scene.world.node.goes_on());
  scene.world.advance(std::chrono::minutes(1));
  CHECK(scene.most_told_at_once(before) <= ManyWait::few);
  scene.check_all_failed(Code::peer_lost);
  scene.world.advance(std::chrono::minutes(1));
  CHECK_FALSE(scene.world.node.next_deadline());
}

TEST_CASE("thousands of ops whose epoch ends fail in pieces, and the next epoch begins at once") {
  ManyWait scene(muster::OnLoss::shrink);
  const auto before = scene.told();
  std::vector<ipc::WorkId> reforms;
  for (std::size_t rank = 0; rank < 3; ++rank) reforms.push_back(scene.clients[rank].contribute(Kind::reform));
  SECTION("by the last call of reform") { reforms.push_back(scene.clients[3].contribute(Kind::reform)); }
  SECTION("because a loss completes the reform") { scene.clients[3].die(); }
  for (std::size_t rank = 0; rank < 3; ++rank) {
    REQUIRE(scene.clients[rank].done(reforms[rank]));
    CHECK(scene.clients[rank].done(reforms[rank])->epoch == 2);
  }
  // The outcomes of the reforms come first.
  CHECK(scene.most_told_at_once(before) <= ManyWait::few + reforms.size());
  scene.check_all_failed(Code::peer_lost);
}

TEST_CASE("ops that outlive a group's last rank fail in pieces") {
  ManyWait scene(muster::OnLoss::wait);
  for (auto& client : scene.clients) {
    const auto before = scene.told();
    client.leave();
    CHECK(scene.most_told_at_once(before) <= ManyWait::few);
  }
  scene.check_all_failed(Code::peer_lost);
  CHECK(scene.clients[0].groups().total() == 0);
}

namespace {

/// A newcomer that called thousands of ops before its epoch could begin.
struct BusyNewcomer {
  BusyNewcomer() {
    clients[0].join("g", 0, 2, muster::OnLoss::shrink);
    clients[1].join("g", 1, 2, muster::OnLoss::shrink);
    clients[1].die();
    clients[2].join("g", 1, 2, muster::OnLoss::shrink);
    for (int op = 0; op < many; ++op) works.push_back(clients[2].contribute(Kind::barrier, {}, 0, a_while));
  }
  /// Returns how much the node does for the newcomer in one turn at most.
  [[nodiscard]] std::size_t most_at_once(const std::function<std::size_t()>& done) {
    std::size_t most = done();
    while (world.node.goes_on()) {
      const std::size_t before = done();
      world.go_on();
      most = std::max(most, done() - std::min(done(), before));
    }
    return most;
  }
  static constexpr int many = 2000;
  static constexpr std::chrono::seconds a_while{30};
  World world;
  std::array<TestClient, 3> clients{TestClient(world, 1), TestClient(world, 2), TestClient(world, 3)};
  std::vector<ipc::WorkId> works;
};

}  // namespace

TEST_CASE_METHOD(BusyNewcomer, "thousands of ops that were called before their epoch take their places in pieces") {
  const auto reform = clients[0].contribute(Kind::reform);
  REQUIRE(clients[0].done(reform));
  clients[0].epoch = 2;
  const auto placed = [&] { return NodeAudit(world.node).ops_in_groups(); };
  CHECK(placed() <= 256);
  SECTION("in the order of their calls, and what is called meanwhile comes behind them") {
    const auto behind = clients[2].contribute(Kind::barrier, {}, 0, a_while);
    CHECK(most_at_once(placed) <= 256);
    for (int op = 0; op < many; ++op) clients[0].contribute(Kind::barrier, {}, 0, a_while);
    for (const auto work : works) REQUIRE(clients[2].done(work));
    CHECK_FALSE(clients[2].done(behind));
    clients[0].contribute(Kind::barrier, {}, 0, a_while);
    REQUIRE(clients[2].done(behind));
  }
  SECTION("a reform, too, and later calls end with the epoch") {
    const auto next = clients[2].contribute(Kind::reform);
    const auto behind = clients[2].contribute(Kind::barrier, {}, 0, a_while);
    const auto others = clients[0].contribute(Kind::reform);
    CHECK_FALSE(clients[2].done(next));
    CHECK(most_at_once(placed) <= 256);
    REQUIRE(clients[2].done(next));
    REQUIRE(clients[0].done(others));
    CHECK(clients[2].done(next)->epoch == 3);
    for (const auto work : works) REQUIRE(clients[2].failed(work));
    REQUIRE(clients[2].failed(behind));
  }
  CHECK(NodeAudit(world.node).contradictions().empty());
}

TEST_CASE_METHOD(BusyNewcomer, "one loss completes two reforms of an epoch, and the next begins once") {
  TestClient other(world, 4);
  clients[0].join("h", 0, 3);
  other.join("h", 1, 3);
  TestClient dies(world, 5);
  dies.join("h", 2, 3);
  dies.leave();
  clients[2].join("h", 2, 3);  // a newcomer with much to do
  for (int op = 0; op < 1000; ++op) clients[2].contribute(Kind::barrier, {}, 0, a_while);
  const auto first = clients[0].contribute(Kind::reform);
  const auto second = clients[0].contribute(Kind::reform);
  other.die();
  for (const auto work : {first, second}) {
    REQUIRE(clients[0].done(work));
    CHECK(clients[0].done(work)->epoch == 2);
  }
  while (world.node.goes_on()) world.go_on();
  CHECK(NodeAudit(world.node).contradictions().empty());
}

TEST_CASE_METHOD(BusyNewcomer, "thousands of ops of a newcomer that goes fail in pieces") {
  SECTION("before its epoch") {}
  SECTION("when that has begun") {
    clients[0].contribute(Kind::reform);
    REQUIRE(world.node.goes_on());
  }
  const auto failed = [&] { return clients[2].count(ipc::CompletionType::failed); };
  clients[2].leave();
  CHECK(NodeAudit(world.node).contradictions().empty());
  CHECK(most_at_once(failed) <= 256);
  clients[0].leave();
  // The ops that had their places waited for the last rank.
  while (world.node.goes_on()) world.go_on();
  for (const auto work : works) REQUIRE((clients[2].failed(work) || clients[2].done(work)));
  CHECK(world.node.ops_in_flight() == 0);
  CHECK(clients[0].groups().total() == 0);
}

namespace {

/// An allgather of the parts of many ranks; the last rank has not called it.
struct ManyParts {
  ManyParts() {
    for (int rank = 0; rank < ranks; ++rank) {
      auto& client = clients.emplace_back(world, static_cast<std::uint32_t>(rank + 1));
      client.join("g", rank, ranks, muster::OnLoss::shrink);
      if (rank < ranks - 1) works.push_back(contribute(client));
    }
  }
  static NodeSettings settings() {
    auto settings = small_settings();
    constexpr std::uint64_t budget = 64 << 20;
    constexpr std::uint64_t many = 1 << 16;
    settings.quota.total = settings.quota.per_user = {budget, many, many, many, many, budget, many};
    return settings;
  }
  static ipc::WorkId contribute(TestClient& client) {
    return client.contribute(Kind::allgather, {client.seal(ipc::Manifest(), {})});
  }
  [[nodiscard]] std::size_t told() {
    std::size_t count = 0;
    for (auto& client : clients) count += client.count(ipc::CompletionType::done);
    return count;
  }
  void check_given(std::size_t rank) {
    REQUIRE(clients[rank].done(works[rank]));
    REQUIRE(clients[rank].done(works[rank])->items.size() == ranks);
    REQUIRE(NodeAudit(world.node).objects_held(clients[rank].id()) == ranks);
  }
  static constexpr int ranks = 100;
  World world{settings()};
  std::deque<TestClient> clients;
  std::vector<ipc::WorkId> works;
};

}  // namespace

TEST_CASE_METHOD(ManyParts, "an op gives its results in pieces to many ranks that each get many objects") {
  works.push_back(contribute(clients.back()));
  std::size_t most = told();
  REQUIRE(most < ranks);
  REQUIRE(world.node.goes_on());
  std::size_t gone = 0;
  SECTION("to all") {}
  SECTION("except to ranks that go meanwhile") {
    clients.back().die();
    ++gone;
  }
  SECTION("even if the daemon ends") {
    world.node.shut_down("test", world.now);
    CHECK(told() == ranks);
    CHECK_FALSE(world.node.goes_on());
  }
  CHECK(NodeAudit(world.node).contradictions().empty());
  while (world.node.goes_on()) {
    const std::size_t before = told();
    world.go_on();
    most = std::max(most, told() - before);
    REQUIRE(NodeAudit(world.node).contradictions().empty());
  }
  CHECK(most * ranks <= 4096);
  for (std::size_t rank = 0; rank + gone < ranks; ++rank) check_given(rank);
  CHECK(world.node.ops_in_flight() == 0);
}

TEST_CASE_METHOD(ManyParts, "a result that one rank releases while the op still gives it reaches all others") {
  works.push_back(contribute(clients.back()));
  REQUIRE(world.node.goes_on());
  const auto given = clients.front().done(works.front());
  REQUIRE(given);
  for (const auto& item : given->items)
    clients.front().record(ipc::SubmissionType::release, ipc::Release{{item.object}});
  clients.front().die();
  while (world.node.goes_on()) world.go_on();
  for (std::size_t rank = 1; rank < ranks; ++rank) check_given(rank);
  CHECK(NodeAudit(world.node).contradictions().empty());
}

TEST_CASE("the many members of a group are told in pieces of a replacement, and of a new epoch") {
  World world;
  TestClient many(world, 1);
  TestClient other(world, 2);
  constexpr int ranks = 600;
  std::vector<ipc::SeatId> seats;
  for (int rank = 0; rank < ranks - 1; ++rank) {
    REQUIRE(many.join("g", rank, ranks, muster::OnLoss::wait));
    seats.push_back(many.seat);
  }
  REQUIRE(other.join("g", ranks - 1, ranks, muster::OnLoss::wait));
  const auto go_on = [&] {
    while (world.node.goes_on()) world.go_on();
  };
  const auto told = [&] { return many.count(ipc::CompletionType::group_changed); };
  other.leave();
  go_on();
  const std::size_t before = told();
  SECTION("a replacement") { REQUIRE(other.join("g", ranks - 1, ranks, muster::OnLoss::wait)); }
  SECTION("a new epoch") {
    for (const auto seat : seats) {
      many.seat = seat;
      many.contribute(Kind::reform);
    }
  }
  CHECK(told() > before);
  CHECK(told() - before < ranks / 2);
  go_on();
  CHECK(told() - before == ranks - 1);
  std::set<std::uint32_t> last;
  for (const auto& completion : world.outside.take(many.id()))
    if (completion.type == ipc::CompletionType::group_changed)
      last.insert(ipc::read_group_changed(completion.body).value().seat.value);
  CHECK(last.size() == seats.size());
  CHECK(NodeAudit(world.node).contradictions().empty());
}
