// Users who share a group share only its results, and everybody can see which users made an object.
#include <catch2/catch.hpp>

#include <set>

#include "client.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;
using ipc::Makers;
using muster::Code;
using muster::OnLoss;

namespace {

constexpr std::uint32_t owner_user = 1000;
constexpr std::uint32_t guest_user = 2000;

ipc::SegmentId segment_of(const ipc::Item& item) { return item.manifest.leaves.front().segment; }

/// Whether the daemon lets the client map that segment for reading.
bool may_map(TestClient& client, ipc::SegmentId segment) {
  try {
    client.map(segment);
    return true;
  } catch (const std::runtime_error&) {
    CHECK(client.failure() == Code::denied);
    return false;
  }
}

/// A group of two users, and a group of the owner alone that is not open.
struct Shared {
  World world;
  TestClient owner{world, 1, owner_user};
  TestClient guest{world, 2, guest_user};
  ipc::SegmentId input{owner.lease(1 << 16)};
  ipc::ObjectId object{owner.seal(input, 0, {1, 2, 3})};

  explicit Shared(OnLoss on_loss = OnLoss::fail) {
    REQUIRE(owner.join("g", 0, 2, on_loss, true));
    REQUIRE(guest.join("g", 1, 2, on_loss, true));
  }
  /// Returns what each user gets from a broadcast of the owner's object.
  std::pair<ipc::Done, ipc::Done> broadcast() {
    const auto ours = owner.contribute(Kind::broadcast, {object});
    const auto theirs = guest.contribute(Kind::broadcast);
    return {owner.done(ours).value(), guest.done(theirs).value()};
  }
  /// Returns a result of an op of the owner alone, without another user.
  ipc::Item alone(ipc::ObjectId of) {
    ipc::Combine combine;
    combine.work = {1000 + ++combines};
    combine.kind = Kind::allgather;
    combine.layout = ipc::Layout::stack;
    combine.timeout_ns = 1'000'000'000;
    combine.ranks = 1;
    combine.objects = {of};
    owner.record(ipc::SubmissionType::combine, combine);
    return owner.done(combine.work).value().items[0];
  }
  std::uint64_t combines = 0;
};

}  // namespace

TEST_CASE("a guest gets a copy, and can't map what the input lies in") {
  Shared shared;
  const auto [ours, theirs] = shared.broadcast();
  CHECK(theirs.items[0].object != shared.object);
  CHECK(ours.items[0].object == theirs.items[0].object);
  CHECK(segment_of(theirs.items[0]) != shared.input);
  CHECK(may_map(shared.guest, segment_of(theirs.items[0])));
  CHECK_FALSE(may_map(shared.guest, shared.input));
}

TEST_CASE("no kind of op gives a guest an input as it is") {
  for (const Kind kind : {Kind::broadcast, Kind::allgather, Kind::gather, Kind::scatter, Kind::send}) {
    Shared shared;
    const bool to_guest = kind == Kind::gather || kind == Kind::send;
    const bool gives = kind == Kind::allgather || kind == Kind::gather;
    const auto segment = gives ? shared.guest.lease(1 << 16) : ipc::SegmentId{};
    ipc::ObjectIds inputs(kind == Kind::scatter ? 2 : 1, shared.object);
    const ipc::ObjectIds from_guest = gives ? ipc::ObjectIds{shared.guest.seal(segment, 0, {4})} : ipc::ObjectIds{};
    const int root = to_guest ? 1 : 0;
    shared.owner.contribute(kind, std::move(inputs), root);
    const auto work =
        shared.guest.contribute(kind == Kind::send ? Kind::recv : kind, from_guest, kind == Kind::send ? 0 : root);
    const auto done = shared.guest.done(work);
    REQUIRE(done);
    REQUIRE_FALSE(done->items.empty());
    for (const auto& item : done->items) {
      CHECK(segment_of(item) != shared.input);
      CHECK(item.manifest.makers == Makers::several_users);
    }
  }
}

TEST_CASE("results of an open group lie with no others") {
  Shared shared;
  const auto before = shared.alone(shared.object);
  const auto [ours, theirs] = shared.broadcast();
  const auto after = shared.alone(shared.object);
  CHECK(segment_of(before) == segment_of(after));
  CHECK(segment_of(theirs.items[0]) != segment_of(after));
  CHECK_FALSE(may_map(shared.guest, segment_of(after)));
}

TEST_CASE("a client that has left an open group sees nothing that comes later") {
  Shared shared(OnLoss::shrink);
  const auto [ours, theirs] = shared.broadcast();
  const auto seen = segment_of(theirs.items[0]);
  REQUIRE(segment_of(shared.broadcast().second.items[0]) == seen);
  shared.guest.leave();
  const auto work = shared.owner.contribute(Kind::broadcast, {shared.object});
  const auto later = segment_of(shared.owner.done(work).value().items[0]);
  CHECK(later != seen);
  CHECK_FALSE(may_map(shared.guest, later));
}

TEST_CASE("a client that has left an open group gets the ops that it contributed to, and nothing else") {
  Shared shared(OnLoss::shrink);
  TestClient third(shared.world, 3, owner_user);
  REQUIRE(shared.owner.join("h", 0, 3, OnLoss::shrink, true));
  REQUIRE(shared.guest.join("h", 1, 3, OnLoss::shrink, true));
  REQUIRE(third.join("h", 2, 3, OnLoss::shrink, true));
  const auto pending = shared.guest.contribute(Kind::broadcast);
  shared.guest.leave();
  shared.owner.contribute(Kind::broadcast, {shared.object});
  third.contribute(Kind::broadcast);
  const auto got = shared.guest.done(pending);
  REQUIRE(got);
  const auto seen = segment_of(got->items[0]);
  CHECK(may_map(shared.guest, seen));
  const auto work = shared.owner.contribute(Kind::broadcast, {shared.object});
  third.contribute(Kind::broadcast);
  const auto later = segment_of(shared.owner.done(work).value().items[0]);
  CHECK(later != seen);
  CHECK_FALSE(may_map(shared.guest, later));
}

TEST_CASE("a client that takes a seat over sees nothing that came before") {
  Shared shared(OnLoss::wait);
  const auto seen = segment_of(shared.broadcast().first.items[0]);
  shared.guest.die();
  TestClient next(shared.world, 3, 3000);
  REQUIRE(next.join("g", 1, 2, OnLoss::wait, true));
  shared.owner.contribute(Kind::broadcast, {shared.object});
  const auto later = segment_of(next.done(next.contribute(Kind::broadcast)).value().items[0]);
  CHECK(later != seen);
  CHECK_FALSE(may_map(next, seen));
}

TEST_CASE("nothing is left of an open group and its results") {
  Shared shared;
  const auto [ours, theirs] = shared.broadcast();
  shared.guest.die();
  shared.owner.leave();
  shared.owner.record(ipc::SubmissionType::release, ipc::Release{{ours.items[0].object}});
  CHECK(shared.owner.status().segments() == 1);  // its own segment
}

TEST_CASE("a result that several users made counts as theirs, whatever is made of it") {
  Shared shared;
  const auto result = shared.broadcast().first.items[0];
  REQUIRE(result.manifest.makers == Makers::several_users);
  CHECK(shared.owner.describe(result.object).makers == Makers::several_users);
  // This holds for a part, however it is sealed, and for a result of an op of the owner alone.
  auto claimed = result.manifest;
  claimed.makers = Makers::one_user;
  const auto part = shared.owner.seal(claimed, result.object);
  CHECK(shared.owner.describe(part).makers == Makers::several_users);
  CHECK(shared.alone(part).manifest.makers == Makers::several_users);
  CHECK(shared.alone(shared.object).manifest.makers == Makers::one_user);
}

TEST_CASE("a client may say that several users made its object, and of what several made not that one did") {
  Shared shared;
  auto manifest = shared.owner.describe(shared.object);
  REQUIRE(manifest.makers == Makers::one_user);
  manifest.makers = Makers::several_users;
  const auto copy = shared.owner.seal(manifest, {});
  CHECK(shared.owner.describe(copy).makers == Makers::several_users);
  manifest.makers = Makers::one_user;
  CHECK(shared.owner.describe(shared.owner.seal(manifest, copy)).makers == Makers::several_users);
}

TEST_CASE("a user that takes part in an op of an open group alone pays for its results") {
  Shared shared;
  auto& world = shared.world;
  // The same if the daemon can't see a process, for instance in another container.
  const std::int32_t pid = GENERATE(1003, 0);
  TestClient second(world, 3, Credentials{guest_user, pid});
  REQUIRE(shared.owner.join("h", 0, 3, OnLoss::fail, true));
  shared.guest.join("h", 1, 3, OnLoss::fail, true);
  second.join("h", 2, 3, OnLoss::fail, true);
  constexpr std::uint32_t root_id = 9;
  TestClient root(world, root_id);
  const auto results_of = [&](std::uint32_t user) {
    std::uint64_t bytes = 0;
    for (const auto* account : *root.status().users())
      if (account->name()->str() == "uid " + std::to_string(user)) bytes = account->memory_bytes();
    return bytes;
  };
  constexpr std::uint64_t large = 1 << 20;
  const auto input = shared.guest.lease(large);
  const auto object = shared.guest.seal(input, 0, std::vector<float>(large / sizeof(float)));
  const auto owners = results_of(owner_user);
  const auto guests = results_of(guest_user);
  const auto sent = shared.guest.contribute(Kind::send, {object}, 2);
  SECTION("from one process of a user to another of the same user") {
    const auto received = second.contribute(Kind::recv, {}, 1);
    REQUIRE(shared.guest.done(sent));
    REQUIRE(second.done(received));
    CHECK(results_of(owner_user) == owners);
    CHECK(results_of(guest_user) >= guests + large);
  }
  SECTION("the receiver pays for what another user sends it") {
    const auto ours = shared.guest.contribute(Kind::send, {object}, 0);
    const auto received = shared.owner.contribute(Kind::recv, {}, 1);
    REQUIRE(shared.guest.done(ours));
    REQUIRE(shared.owner.done(received));
    CHECK(results_of(owner_user) >= owners + large);
    CHECK(results_of(guest_user) == guests);
  }
}

namespace {

/// What a client sees in its lists.
struct Lists {
  explicit Lists(TestClient& client) {
    constexpr std::uint64_t request = 1000;
    FrameBuilder objects_query(request);
    client.ask(objects_query, wire::Body_ObjectsQuery, wire::CreateObjectsQuery(objects_query.fbb, 0).Union());
    for (const auto* object : *client.reply().body_as_Objects()->objects()) {
      objects.insert(object->object());
      for (const auto* holder : *object->holders()) holders.push_back(holder->str());
    }
    object_total = client.reply().body_as_Objects()->total();
    for (const auto* group : *client.groups().groups()) {
      groups.insert(group->name()->str());
      for (const auto* seat : *group->seats()) members.insert(seat->client()->str());
    }
    FrameBuilder clients_query(request);
    client.ask(clients_query, wire::Body_ClientsQuery, wire::CreateClientsQuery(clients_query.fbb).Union());
    for (const auto* each : *client.reply().body_as_Clients()->clients()) clients.insert(each->uid());
    for (const auto* user : *client.status().users()) users.insert(user->name()->str());
  }
  std::set<std::uint64_t> objects;
  std::uint64_t object_total = 0;
  std::vector<std::string> holders;
  std::set<std::string> groups;
  std::set<std::string> members;
  std::set<std::uint32_t> clients;
  std::set<std::string> users;
};

}  // namespace

TEST_CASE("lists show a user what is its own, and the daemon's user and root everything") {
  Shared shared;
  REQUIRE(shared.owner.join("private", 0, 2));
  REQUIRE(shared.owner.join("open for others", 0, 2, OnLoss::fail, true));
  REQUIRE(shared.guest.join("guest's", 0, 2));
  TestClient stranger(shared.world, 3, 1500);
  REQUIRE(stranger.join("stranger's", 0, 2));
  TestClient root(shared.world, 4, 0);
  const Lists of_owner(shared.owner);
  const Lists of_guest(shared.guest);
  const Lists of_stranger(stranger);
  const Lists of_root(root);
  CHECK(of_owner.objects == std::set{shared.object.value});
  CHECK(of_owner.groups == std::set<std::string>{"g", "open for others", "private"});
  CHECK(of_owner.members == std::set<std::string>{"", "test (pid 1001)", "uid 2000"});
  CHECK(of_owner.clients == std::set{owner_user});
  CHECK(of_owner.users == std::set<std::string>{"uid 1000"});
  CHECK(of_guest.objects.empty());
  CHECK(of_guest.object_total == 0);
  CHECK(of_guest.groups == std::set<std::string>{"g", "guest's"});
  CHECK(of_guest.members == std::set<std::string>{"", "test (pid 1002)", "uid 1000"});
  CHECK(of_guest.clients == std::set{guest_user});
  CHECK(of_stranger.groups == std::set<std::string>{"stranger's"});
  CHECK(of_stranger.users == std::set<std::string>{"uid 1500"});
  CHECK(of_root.objects == of_owner.objects);
  CHECK(of_root.groups.size() == 5);
  CHECK(of_root.clients.size() == 4);
  CHECK(of_root.members.contains("test (pid 1003)"));
}

TEST_CASE("a list names the first holders of an object, and counts the others", "[no-tokens]") {
  constexpr std::uint32_t readers = 20;
  Shared shared;
  for (std::uint32_t id = 100; id < 100 + readers; ++id) {
    TestClient reader(shared.world, id, owner_user);
    reader.look_up(shared.object, {{42, 1}});
  }
  const Lists lists(shared.owner);
  REQUIRE(lists.holders.size() == 17);
  CHECK(lists.holders.front() == "test (pid 1001)");
  CHECK(lists.holders.back() == "and 5 more");
}

TEST_CASE("a pickle that nobody could load keeps nothing") {
  Shared shared;
  const auto before = NodeAudit(shared.world.node).charged()[Resource::objects];
  const auto one = shared.owner.contribute(Kind::allreduce, {shared.owner.seal(shared.input, 0, {1.0F})});
  const auto two = shared.guest.contribute(Kind::allreduce, {shared.guest.seal(shared.guest.lease(4096), 0, {2.0F})});
  const auto result = shared.guest.done(two)->items[0].object;
  REQUIRE(shared.owner.done(one)->items[0].object == result);
  shared.guest.record(ipc::SubmissionType::pin, ipc::Pin{result});
  shared.owner.record(ipc::SubmissionType::release, ipc::Release{{result}});
  shared.guest.record(ipc::SubmissionType::release, ipc::Release{{result}});
  CHECK(NodeAudit(shared.world.node).charged()[Resource::objects] == before + 2);  // the inputs
}
