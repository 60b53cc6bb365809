// Memory that clients have left in place on a device: who pays, who may read it, when its owner may free it, and what
// becomes of objects and ops when the owner dies.
#include <catch2/catch.hpp>

#include <string>

#include "client.hpp"
#include "memory/device_backing.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;
using muster::Code;
using muster::Device;

namespace {

constexpr auto gpu = Device::cuda(0);
constexpr std::uint64_t bytes = 1000;  // no multiple of anything
constexpr std::uint64_t left_by_client_max = 4;

struct InPlace {
  DeviceBacking device;
  World world{settings(), std::make_unique<Recorder>(), backings()};
  TestClient owner{world, 1};
  TestClient other{world, 2};

  InPlace() {
    world.outside.works_on_gpus = true;
    world.outside.jobs.run = [](const Job& /*unused*/) {};
  }
  static NodeSettings settings() {
    NodeSettings settings = small_settings();
    auto& quota = settings.quota;
    for (auto* amounts : {&quota.total, &quota.per_user, &quota.per_client}) {
      (*amounts)[memory_of(gpu)] = std::uint64_t{64} << 20;
      (*amounts)[Resource::in_place] = 2 * left_by_client_max;
    }
    quota.per_client[Resource::in_place] = left_by_client_max;
    return settings;
  }
  Backings backings() {
    Backings backings(backing());
    backings.add(gpu, device);
    return backings;
  }
  static wire::Device wire_of(Device device) { return {static_cast<std::uint8_t>(device.kind), device.index}; }
  [[nodiscard]] Amounts charged() { return NodeAudit(world.node).charged(); }
  void check_books() { CHECK(NodeAudit(world.node).contradictions() == std::vector<std::string>{}); }

  static ipc::SegmentId leave(TestClient& client) {
    client.ask_leave_in_place(bytes, wire_of(gpu));
    const auto* segment = client.reply().body_as_Segment();
    REQUIRE(segment);
    CHECK(segment->in_place());
    return {segment->segment()};
  }
  static ipc::ObjectId seal(TestClient& client, ipc::SegmentId segment, std::int64_t count = 4,
                            std::uint64_t offset = 8) {
    ipc::Manifest manifest;
    const std::int64_t shape[]{count};
    manifest.add(segment, offset, muster::DType::float32, shape, gpu).value();
    return client.seal(std::move(manifest), {});
  }
  /// An object that lies where its owner has left it, as clients do it.
  static ipc::ObjectId put(TestClient& client) {
    const auto segment = leave(client);
    const auto object = seal(client, segment);
    client.record(ipc::SubmissionType::hand_over, ipc::HandOver{segment});
    return object;
  }
  /// Another array of the device, in the store.
  ipc::ObjectId lease(TestClient& client) {
    client.ask_lease(DeviceBacking::unit_bytes, 1000, false, wire_of(gpu));
    const ipc::SegmentId segment{client.reply().body_as_Segment()->segment()};
    client.mapped(segment);
    return seal(client, segment);
  }
  ipc::SegmentId segment_of(TestClient& client, ipc::ObjectId object) {
    return client.describe(object).leaves[0].segment;
  }
  /// The other one gets a hold of the owner's object.
  void share(ipc::ObjectId object) {
    other.look_up(object, NodeAudit(world.node).held_object(owner.id(), object)->capability);
    REQUIRE(other.reply().body_as_Object());
  }
  std::size_t overs() { return owner.count(ipc::CompletionType::in_place_over); }
  static void release(TestClient& client, ipc::ObjectId object) {
    client.record(ipc::SubmissionType::release, ipc::Release{{object}});
  }
};

}  // namespace

TEST_CASE("what is left in place takes nothing of the store, and is charged by number") {
  InPlace node;
  const auto before = node.charged();
  const auto object = InPlace::put(node.owner);
  auto after = node.charged();
  CHECK(after[Resource::in_place] == 1);
  CHECK(after[memory_of(gpu)] == before[memory_of(gpu)]);
  CHECK(after[Resource::memory] == before[Resource::memory]);
  CHECK(after[Resource::fds] == before[Resource::fds]);
  CHECK(after[Resource::maps] == before[Resource::maps]);
  node.check_books();
  CHECK(node.owner.status().in_place() == 1);
  CHECK(node.owner.status().in_place_max() == 2 * left_by_client_max);
  const auto* row = node.owner.objects()[0];
  CHECK(row->in_place());
  CHECK_FALSE(row->lost());
  CHECK(row->pins_bytes() == 0);
  InPlace::release(node.owner, object);
  node.device.close_all();
  CHECK(node.charged()[Resource::in_place] == 0);
  node.check_books();
}

TEST_CASE("one client, and one user, may leave only so much in place") {
  InPlace node;
  TestClient third(node.world, 3);
  for (auto* client : {&node.owner, &node.other}) {
    for (std::uint64_t i = 0; i < left_by_client_max; ++i) InPlace::put(*client);
    client->ask_leave_in_place(bytes, InPlace::wire_of(gpu));
    CHECK(client->failure() == Code::quota_exceeded);
    CHECK(client->reply().body_as_Failure()->message()->str().find("left in place") != std::string::npos);
  }
  third.ask_leave_in_place(bytes, InPlace::wire_of(gpu));
  CHECK(third.failure() == Code::quota_exceeded);
  node.check_books();
}

TEST_CASE("lies about what is left in place are refused, and cost nobody anything") {
  InPlace node;
  const auto refused = [&](std::uint64_t size, std::optional<wire::Device> device, bool named = true) {
    node.owner.ask_leave_in_place(size, device, named);
    return node.owner.failure() == Code::invalid;
  };
  CHECK(refused(0, InPlace::wire_of(gpu)));
  CHECK(refused(~std::uint64_t{0}, InPlace::wire_of(gpu)));
  CHECK(refused(bytes, InPlace::wire_of(gpu), false));
  CHECK(refused(bytes, std::nullopt));
  CHECK(refused(bytes, wire::Device(9, 9)));
  CHECK(refused(bytes, InPlace::wire_of(Device::cpu())));
  CHECK(refused(bytes, InPlace::wire_of(Device::cuda(1))));
  CHECK(node.charged()[Resource::in_place] == 0);
  // Its leaves must lie inside, and on its device.
  const auto segment = InPlace::leave(node.owner);
  InPlace::seal(node.owner, segment, 250, 4);
  InPlace::seal(node.owner, segment, 1, bytes);
  CHECK(node.owner.count(ipc::CompletionType::seal_failed) == 2);
  InPlace::seal(node.owner, segment, 249, 4);
  CHECK(node.owner.count(ipc::CompletionType::seal_failed) == 2);
  // It is nobody else's to name, to hand over or to give back, and was not leased to be mapped.
  InPlace::seal(node.other, segment);
  CHECK(node.other.count(ipc::CompletionType::seal_failed) == 1);
  node.other.ask_return(segment);
  CHECK(node.other.failure() == Code::denied);
  node.owner.mapped(segment);
  CHECK(node.owner.failure() == Code::invalid);
  node.owner.hard_seal(segment);
  CHECK(node.owner.failure() == Code::invalid);
  node.owner.ask_return(segment);  // an object lies in it
  CHECK(node.owner.failure() == Code::invalid);
  node.check_books();
}

TEST_CASE("only the daemon's own user may leave memory in place") {
  InPlace node;
  TestClient stranger(node.world, 7, 1000);
  stranger.ask_leave_in_place(bytes, InPlace::wire_of(gpu));
  CHECK(stranger.failure() == Code::denied);
}

TEST_CASE("a segment is there when the device has opened it") {
  InPlace node;
  node.device.late = true;
  const auto replies = node.owner.replies();
  node.owner.ask_leave_in_place(bytes, InPlace::wire_of(gpu));
  CHECK(node.owner.replies() == replies);
  const auto coming = node.device.coming.at(0).lock();
  REQUIRE(coming);
  // Who guesses its number can't use it yet.
  InPlace::seal(node.owner, {1});
  CHECK(node.owner.count(ipc::CompletionType::seal_failed) == 1);
  node.owner.mapped({1});
  CHECK(node.owner.failure() == Code::invalid);
  InPlace::seal(node.owner, {1});
  CHECK(node.owner.count(ipc::CompletionType::seal_failed) == 2);
  SECTION("it does") {
    coming->finish({});
    REQUIRE(node.owner.reply().body_as_Segment());
    InPlace::seal(node.owner, {node.owner.reply().body_as_Segment()->segment()});
    CHECK(node.owner.count(ipc::CompletionType::seal_failed) == 2);
  }
  SECTION("it can't") {
    coming->finish(muster::Error(Code::invalid, "no such handle", ""));
    CHECK(node.owner.failure() == Code::invalid);
  }
  SECTION("it takes too long") {
    node.world.advance(std::chrono::seconds(5));
    CHECK(node.owner.failure() == Code::out_of_memory);
    CHECK(node.owner.reply().body_as_Failure()->message()->str() == "cuda:0 did not open 1000 B of memory in time");
    coming->finish({});
  }
  SECTION("its owner dies meanwhile") {
    node.owner.die();
    coming->finish({});
  }
  node.check_books();
}

TEST_CASE("the owner may free it once the object is gone and nobody has it open") {
  InPlace node;
  const auto object = InPlace::put(node.owner);
  const auto segment = node.segment_of(node.owner, object);
  node.share(object);
  node.other.map(segment);
  CHECK(node.other.reply().body_as_Segment()->in_place());
  InPlace::release(node.owner, object);
  CHECK(node.owner.count(ipc::CompletionType::object_gone) == 0);
  InPlace::release(node.other, object);
  CHECK(node.owner.count(ipc::CompletionType::object_gone) == 1);
  CHECK(node.other.count(ipc::CompletionType::segment_gone) == 1);
  CHECK(node.overs() == 0);
  SECTION("the device closes it first") {
    node.device.close_all();
    CHECK(node.overs() == 0);
    node.other.record(ipc::SubmissionType::unmapped, ipc::Unmapped{segment});
  }
  SECTION("the reader does") {
    node.other.record(ipc::SubmissionType::unmapped, ipc::Unmapped{segment});
    CHECK(node.overs() == 0);
    node.device.close_all();
  }
  SECTION("the reader dies") {
    node.device.close_all();
    node.other.die();
  }
  CHECK(node.overs() == 1);
  CHECK(node.charged()[Resource::in_place] == 0);
  node.check_books();
}

TEST_CASE("what was left in place and never sealed, or in vain, may be freed") {
  InPlace node;
  const auto segment = InPlace::leave(node.owner);
  SECTION("handed over") { node.owner.record(ipc::SubmissionType::hand_over, ipc::HandOver{segment}); }
  SECTION("given back") { node.owner.give_back(segment); }
  SECTION("a seal that fails") {
    InPlace::seal(node.owner, segment, 1000);
    node.owner.record(ipc::SubmissionType::hand_over, ipc::HandOver{segment});
    CHECK(node.owner.count(ipc::CompletionType::seal_failed) == 1);
  }
  node.device.close_all();
  CHECK(node.overs() == 1);
  node.check_books();
}

TEST_CASE("an object that was left in place is lost with its owner") {
  InPlace node;
  const auto object = InPlace::put(node.owner);
  const auto segment = node.segment_of(node.owner, object);
  node.share(object);
  const auto capability = NodeAudit(node.world.node).held_object(node.other.id(), object)->capability;
  auto part = node.other.describe(object);
  const auto of_it = node.other.seal(part, object);
  const bool handed_over = GENERATE(true, false);
  if (!handed_over) InPlace::leave(node.owner);
  node.owner.die();
  const auto is_lost = [&] { return node.other.failure() == Code::object_lost; };
  node.other.ask_map(segment);
  CHECK(is_lost());
  node.other.look_up(object, capability);
  CHECK(is_lost());
  CHECK(node.other.reply().body_as_Failure()->message()->str().find("it was left in place") != std::string::npos);
  node.other.seal(part, object);
  CHECK(node.other.count(ipc::CompletionType::seal_failed) == 1);
  node.other.join("g", 0, 1);
  for (const auto each : {object, of_it}) {
    const auto work = node.other.contribute(Kind::allgather, {each});
    REQUIRE(node.other.failed(work));
    CHECK(node.other.failed(work)->code() == Code::object_lost);
  }
  CHECK(node.other.objects()[0]->lost());
  CHECK(node.other.objects()[1]->lost());
  node.check_books();
  // It goes with its last holder.
  InPlace::release(node.other, object);
  InPlace::release(node.other, of_it);
  node.device.close_all();
  CHECK(node.charged()[Resource::in_place] == 0);
  node.check_books();
}

TEST_CASE("an op that goes on because the owner has died finds that what it left is lost") {
  InPlace node;
  TestClient third(node.world, 3);
  const auto object = InPlace::put(node.owner);
  node.share(object);
  node.other.join("g", 0, 3, muster::OnLoss::shrink);
  third.join("g", 1, 3, muster::OnLoss::shrink);
  node.owner.join("g", 2, 3, muster::OnLoss::shrink);
  const auto given = node.other.contribute(Kind::broadcast, {object});
  const auto wanted = third.contribute(Kind::broadcast);
  node.owner.die();
  for (const auto& failed : {node.other.failed(given), third.failed(wanted)}) {
    REQUIRE(failed);
    CHECK(failed->code() == Code::object_lost);
  }
  node.check_books();
}

TEST_CASE("an op over what was left in place is as its owner's life is") {
  InPlace node;
  node.world.outside.jobs.hold = true;
  node.world.outside.jobs.apart = true;
  TestClient third(node.world, 3);
  node.owner.join("g", 0, 3);
  node.other.join("g", 1, 3);
  third.join("g", 2, 3);
  node.owner.contribute(Kind::allreduce, {InPlace::put(node.owner)});
  const auto second = node.other.contribute(Kind::allreduce, {node.lease(node.other)});
  const auto outcome_of = [&](TestClient& client, ipc::WorkId work) {
    const auto failed = client.failed(work);
    REQUIRE(failed);
    CHECK(failed->message() ==
          "an input of allreduce #0 is lost: it was left in place, and its owner has ended, or a new worker could not "
          "open it");
    return failed->code();
  };
  auto& jobs = node.world.outside.jobs;
  SECTION("it is done") {
    const auto work = third.contribute(Kind::allreduce, {node.lease(third)});
    jobs.end_all();
    CHECK(node.other.done(second));
    CHECK(third.done(work));
  }
  SECTION("the owner dies before it is complete") {
    node.owner.die();
    const auto work = third.contribute(Kind::allreduce, {node.lease(third)});
    CHECK(jobs.jobs.empty());
    CHECK(outcome_of(node.other, second) == Code::object_lost);
    CHECK(outcome_of(third, work) == Code::object_lost);
  }
  SECTION("the owner dies while it runs") {
    const auto work = third.contribute(Kind::allreduce, {node.lease(third)});
    REQUIRE(jobs.jobs.size() == 1);
    node.owner.die();
    SECTION("and the lane has done it nevertheless") { jobs.finish(jobs.latest); }
    SECTION("and the lane has failed, and says of what") {
      jobs.fail(jobs.latest, muster::Error(Code::failed, "the worker has died", ""));
    }
    SECTION("and the lane fails, and still runs") {
      jobs.fail_and_run_on(jobs.latest, muster::Error(Code::failed, "the worker hangs", ""));
      node.check_books();
      jobs.become_quiet(jobs.latest);
    }
    CHECK(outcome_of(node.other, second) == Code::object_lost);
    CHECK(outcome_of(third, work) == Code::object_lost);
  }
  node.check_books();
}

TEST_CASE("an op that gives an object as it is fails, too, once its owner has gone") {
  InPlace node;
  node.owner.join("g", 0, 3);
  node.other.join("g", 1, 3);
  TestClient third(node.world, 3);
  third.join("g", 2, 3);
  node.owner.contribute(Kind::broadcast, {InPlace::put(node.owner)});
  const auto first = node.other.contribute(Kind::broadcast);
  node.owner.die();
  const auto second = third.contribute(Kind::broadcast);
  for (const auto& failed : {node.other.failed(first), third.failed(second)}) {
    REQUIRE(failed);
    CHECK(failed->code() == Code::object_lost);
  }
}

TEST_CASE("a client with much that was left in place goes in pieces, and all of it is lost at once") {
  NodeSettings settings = InPlace::settings();
  for (auto* amounts : {&settings.quota.total, &settings.quota.per_user, &settings.quota.per_client})
    (*amounts)[Resource::in_place] = 1000;
  DeviceBacking device;
  Backings backings(backing());
  backings.add(gpu, device);
  World world(settings, std::make_unique<Recorder>(), backings);
  TestClient owner(world, 1);
  TestClient other(world, 2);
  std::vector<ipc::ObjectId> objects;
  for (int i = 0; i < 500; ++i) objects.push_back(InPlace::put(owner));
  for (const auto object : objects)
    other.look_up(object, NodeAudit(world.node).held_object(owner.id(), object)->capability);
  owner.die();
  for (const auto object : objects) CHECK(is_lost(*NodeAudit(world.node).held_object(other.id(), object)));
  while (world.node.goes_on()) world.go_on();
  other.die();
  while (world.node.goes_on()) world.go_on();
  device.close_all();
  CHECK(NodeAudit(world.node).left_over() == std::vector<std::string>{});
}
