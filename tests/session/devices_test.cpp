// A node that has memory on a GPU, and no lane there: what clients have there, who pays, and what ops make of it.
#include <catch2/catch.hpp>

#include <algorithm>

#include "client.hpp"
#include "memory/device_backing.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;
using muster::Code;
using muster::Device;

namespace {

constexpr auto gpu = Device::cuda(0);
constexpr std::uint64_t unit = DeviceBacking::unit_bytes;

struct Gpu {
  DeviceBacking device;
  World world{settings(), std::make_unique<Recorder>(), backings()};
  TestClient first{world, 1};
  TestClient second{world, 2};

  static NodeSettings settings() {
    NodeSettings settings = small_settings();
    for (auto* amounts : {&settings.quota.total, &settings.quota.per_user, &settings.quota.per_client})
      (*amounts)[memory_of(gpu)] = 4 * unit;
    return settings;
  }
  Backings backings() {
    Backings backings(backing());
    backings.add(gpu, device);
    return backings;
  }
  [[nodiscard]] std::uint64_t charged(Resource resource) { return NodeAudit(world.node).charged()[resource]; }
  static wire::Device wire_of(Device device) { return {static_cast<std::uint8_t>(device.kind), device.index}; }

  /// A segment there that its client has mapped.
  static ipc::SegmentId lease(TestClient& client, std::uint64_t bytes = unit) {
    client.ask_lease(bytes, 1000, false, wire_of(gpu));
    const ipc::SegmentId id{client.reply().body_as_Segment()->segment()};
    client.mapped(id);
    return id;
  }
  /// An array of four floats that is said to be on `device`.
  static ipc::ObjectId seal(TestClient& client, ipc::SegmentId segment, Device device) {
    ipc::Manifest manifest;
    const std::int64_t shape[]{4};
    manifest.add(segment, 0, muster::DType::float32, shape, device).value();
    return client.seal(std::move(manifest), {});
  }
};

}  // namespace

TEST_CASE("a client is told on which devices there is memory") {
  Gpu node;
  const auto& devices = *node.first.reply().body_as_Welcome()->devices();
  REQUIRE(devices.size() == 2);
  CHECK(Device::of(devices[0]->kind(), devices[0]->index()) == Device::cpu());
  CHECK(Device::of(devices[1]->kind(), devices[1]->index()) == gpu);
}

TEST_CASE("a lease on a device is charged there, and ends with its client") {
  Gpu node;
  const auto on_host = node.charged(Resource::memory);
  const auto maps = node.charged(Resource::maps);
  Gpu::lease(node.first, unit + 1);
  CHECK(node.charged(memory_of(gpu)) == 2 * unit);
  CHECK(node.charged(Resource::memory) == on_host);
  CHECK(node.charged(Resource::maps) == maps);
  node.first.die();
  CHECK(node.charged(memory_of(gpu)) == 0);
}

TEST_CASE("who asks for more than a device has waits, or is told so") {
  Gpu node;
  const auto held = Gpu::lease(node.first, 3 * unit);
  node.second.ask_lease(5 * unit, 1000, false, Gpu::wire_of(gpu));
  CHECK(node.second.failure() == Code::out_of_memory);
  const auto replies = node.second.replies();
  node.second.ask_lease(2 * unit, 1000, false, Gpu::wire_of(gpu));
  CHECK(node.second.replies() == replies);
  SECTION("it gets what comes back") {
    node.first.give_back(held);
    CHECK(node.second.reply().body_as_Segment() != nullptr);
  }
  SECTION("nothing comes back") {
    node.world.advance(std::chrono::seconds(2));
    CHECK(node.second.failure() == Code::out_of_memory);
    CHECK(node.second.reply().body_as_Failure()->message()->str().find("on cuda:0") != std::string::npos);
  }
}

TEST_CASE("a device that the node does not have, and none at all, are Invalid") {
  Gpu node;
  for (const auto device : {Gpu::wire_of(Device::cuda(1)), Gpu::wire_of(Device::pinned()), wire::Device(3, 0),
                            wire::Device(2, 255), wire::Device(0, 1)}) {
    node.first.ask_lease(1, 1000, false, device);
    CHECK(node.first.failure() == Code::invalid);
  }
}

TEST_CASE("an array is where its segment is, whatever its maker says") {
  Gpu node;
  const auto there = Gpu::lease(node.first);
  const auto here = node.first.lease(4096);
  const auto lie = [&](ipc::SegmentId segment, Device device) {
    const auto before = node.first.count(ipc::CompletionType::seal_failed);
    Gpu::seal(node.first, segment, device);
    return node.first.count(ipc::CompletionType::seal_failed) == before + 1;
  };
  CHECK(lie(there, Device::cpu()));
  CHECK(lie(there, Device::cuda(1)));
  CHECK(lie(here, gpu));
  CHECK(lie(here, Device::pinned()));
  CHECK_FALSE(lie(there, gpu));
  // The same holds for parts.
  const auto whole = Gpu::seal(node.first, there, gpu);
  auto part = node.first.describe(whole);
  part.leaves[0].device = Device::cpu();
  node.first.seal(part, whole);
  CHECK(node.first.count(ipc::CompletionType::seal_failed) == 5);
}

TEST_CASE("what need not be changed is given where it is") {
  Gpu node;
  node.first.join("g", 0, 2);
  node.second.join("g", 1, 2);
  const auto object = Gpu::seal(node.first, Gpu::lease(node.first), gpu);
  node.first.contribute(Kind::broadcast, {object});
  const auto work = node.second.contribute(Kind::broadcast);
  const auto done = node.second.done(work);
  REQUIRE(done);
  CHECK(done->items[0].object == object);
  CHECK(done->items[0].manifest.leaves[0].device == gpu);
}

TEST_CASE("an op for which no lane works there fails on every seat") {
  Gpu node;
  node.first.join("g", 0, 2);
  node.second.join("g", 1, 2);
  const auto one = node.first.contribute(Kind::allreduce, {Gpu::seal(node.first, Gpu::lease(node.first), gpu)});
  const auto two = node.second.contribute(Kind::allreduce, {Gpu::seal(node.second, Gpu::lease(node.second), gpu)});
  for (const auto& error : {node.first.failed(one), node.second.failed(two)}) {
    REQUIRE(error);
    CHECK(error->code() == Code::invalid);
    CHECK(error->message() == "allreduce #0 is to be done on cuda:0, and nothing here works there");
  }
}

TEST_CASE("ranks whose arrays are on the host and on a device disagree") {
  Gpu node;
  node.first.join("g", 0, 2);
  node.second.join("g", 1, 2);
  const auto one = node.first.contribute(Kind::allreduce, {Gpu::seal(node.first, Gpu::lease(node.first), gpu)});
  const auto two =
      node.second.contribute(Kind::allreduce, {Gpu::seal(node.second, node.second.lease(4096), Device::cpu())});
  for (const auto& error : {node.first.failed(one), node.second.failed(two)}) {
    REQUIRE(error);
    CHECK(error->code() == Code::mismatch);
    CHECK(error->message().find("device") != std::string::npos);
    CHECK(error->message().find("cuda:0") != std::string::npos);
    CHECK(error->message().find("cpu") != std::string::npos);
  }
}

TEST_CASE("what a dead client leaves on a device is not moved through the host") {
  Gpu node;
  const auto object = Gpu::seal(node.first, Gpu::lease(node.first), gpu);
  node.first.join("g", 0, 2);
  node.second.join("g", 1, 2);
  node.first.contribute(Kind::broadcast, {object});
  REQUIRE(node.second.done(node.second.contribute(Kind::broadcast)));
  node.first.die();
  for (int i = 0; i < 10; ++i) node.world.advance(std::chrono::seconds(1));
  while (node.world.node.goes_on()) node.world.go_on();
  CHECK(node.second.describe(object).leaves[0].device == gpu);
  CHECK(node.charged(memory_of(gpu)) == unit);
}
