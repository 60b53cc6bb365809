// Nodes that have memory on GPUs, with and without a lane there: what clients have there, who pays, and what ops make
// of it.
#include <catch2/catch.hpp>

#include <algorithm>
#include <array>

#include "client.hpp"
#include "collective/over_devices.hpp"
#include "memory/device_backing.hpp"
#include "memory/heap_backing.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;
using muster::Code;
using muster::Device;

namespace {

constexpr auto gpu = Device::cuda(0);
constexpr std::uint64_t unit = DeviceBacking::unit_bytes;

struct Gpu {
  explicit Gpu(bool has_pinned_ = false) : has_pinned(has_pinned_) {}
  bool has_pinned;
  HeapBacking pinned;
  DeviceBacking device;
  World world{settings(), std::make_unique<Recorder>(), backings()};
  TestClient first{world, 1};
  TestClient second{world, 2};

  static NodeSettings settings() {
    NodeSettings settings = small_settings();
    for (auto* amounts : {&settings.quota.total, &settings.quota.per_user, &settings.quota.per_client})
      (*amounts)[memory_of(gpu)] = 4 * unit;
    settings.gpus = {{gpu, {1, 2, 3}}};
    return settings;
  }
  Backings backings() {
    Backings backings(backing());
    backings.add(gpu, device);
    if (has_pinned) backings.add(Device::pinned(), pinned);
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
  const auto device = [&](unsigned at) {
    return Device::of(devices[at]->device().kind(), devices[at]->device().index());
  };
  CHECK(device(0) == Device::cpu());
  CHECK(devices[0]->bytes() == Gpu::settings().quota.total[Resource::memory]);
  CHECK(device(1) == gpu);
  CHECK(devices[1]->bytes() == Gpu::settings().quota.total[memory_of(gpu)]);
  CHECK(std::ranges::equal(*devices[1]->gpu(), Gpu::settings().gpus.at(0).uuid));
  CHECK(std::ranges::count(*devices[0]->gpu(), 0) == 16);
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

TEST_CASE("a lease on a device is granted when the memory is there") {
  Gpu node;
  node.device.late = true;
  const auto replies = node.first.replies();
  node.first.ask_lease(unit, 1000, false, Gpu::wire_of(gpu));
  CHECK(node.first.replies() == replies);
  REQUIRE(node.device.coming.size() == 1);
  const auto coming = node.device.coming[0].lock();
  REQUIRE(coming);
  SECTION("it comes") {
    coming->finish({});
    REQUIRE(node.first.reply().body_as_Segment());
    CHECK(node.world.outside.last_fd.get() >= 0);
    const ipc::SegmentId id{node.first.reply().body_as_Segment()->segment()};
    node.first.mapped(id);
    CHECK(node.first.reply().body_type() == wire::Body_Ok);
  }
  SECTION("it does not") {
    coming->finish(muster::Error(Code::out_of_memory, "the GPU is full", "wait"));
    CHECK(node.first.failure() == Code::out_of_memory);
    CHECK(node.first.reply().body_as_Failure()->message()->str() == "the GPU is full");
    CHECK(node.charged(memory_of(gpu)) == 0);
  }
  SECTION("the client dies meanwhile") {
    node.first.die();
    coming->finish({});
    CHECK(node.charged(memory_of(gpu)) == 0);
  }
  SECTION("it takes too long") {
    node.world.advance(std::chrono::seconds(4));
    CHECK(node.first.replies() == replies);  // its worker may have to be started
    REQUIRE(node.world.node.next_deadline());
    CHECK(*node.world.node.next_deadline() <= node.world.now + std::chrono::seconds(1));
    node.world.advance(std::chrono::seconds(1));
    CHECK(node.first.failure() == Code::out_of_memory);
    CHECK(node.first.reply().body_as_Failure()->message()->str() == "cuda:0 did not make 2 MiB of memory in time");
    CHECK(node.charged(memory_of(gpu)) == 0);
    coming->finish({});
    CHECK(node.first.replies() == replies + 1);
    CHECK(node.charged(memory_of(gpu)) == 0);
  }
  SECTION("a client that has more time waits longer") {
    node.second.ask_lease(unit, 30'000, false, Gpu::wire_of(gpu));
    const auto before = node.second.replies();
    node.world.advance(std::chrono::seconds(29));
    CHECK(node.first.failure() == Code::out_of_memory);
    CHECK(node.second.replies() == before);
    node.world.advance(std::chrono::seconds(1));
    CHECK(node.second.failure() == Code::out_of_memory);
  }
  SECTION("another one dies meanwhile") {
    node.second.die();
    coming->finish({});
    CHECK(node.first.reply().body_as_Segment());
  }
  CHECK(NodeAudit(node.world.node).contradictions().empty());
}

namespace {

/// A node whose lane works on two GPUs, which are memory of the host behind the same seams.
struct WorkingGpus {
  static constexpr std::uint64_t budget = 1 << 20;
  HeapBacking first_gpu;
  HeapBacking second_gpu;
  World world{settings(), std::make_unique<Recorder>(), backings()};
  TestClient first{world, 1};
  TestClient second{world, 2};

  WorkingGpus() {
    world.outside.works_on_gpus = true;
    first.join("g", 0, 2);
    second.join("g", 1, 2);
  }
  static NodeSettings settings() {
    NodeSettings settings = small_settings();
    for (auto* amounts : {&settings.quota.total, &settings.quota.per_user, &settings.quota.per_client})
      for (const auto device : {Device::cuda(0), Device::cuda(1)}) (*amounts)[memory_of(device)] = budget;
    return settings;
  }
  Backings backings() {
    Backings backings(backing());
    backings.add(Device::cuda(0), first_gpu);
    backings.add(Device::cuda(1), second_gpu);
    return backings;
  }
  [[nodiscard]] std::uint64_t charged(Device device) { return NodeAudit(world.node).charged()[memory_of(device)]; }
  [[nodiscard]] std::uint64_t heap() { return NodeAudit(world.node).charged()[Resource::heap]; }

  /// An array of floats on a GPU, which all are `value`.
  ipc::ObjectId put(TestClient& client, Device device, std::int64_t count, float value) {
    client.ask_lease(static_cast<std::uint64_t>(count) * sizeof(float), 1000, false, Gpu::wire_of(device));
    const ipc::SegmentId segment{client.reply().body_as_Segment()->segment()};
    client.mapped(segment);
    const auto memory = NodeAudit(world.node).segment(segment)->memory()->host();
    for (std::int64_t i = 0; i < count; ++i)
      std::memcpy(memory.data() + static_cast<std::size_t>(i) * sizeof(float), &value, sizeof value);
    ipc::Manifest manifest;
    const std::int64_t shape[]{count};
    manifest.add(segment, 0, muster::DType::float32, shape, device).value();
    return client.seal(std::move(manifest), {});
  }
  /// The first element of a result.
  float first_of(const ipc::Item& item) {
    const auto& leaf = item.manifest.leaves[0];
    float value = 0;
    std::memcpy(&value, NodeAudit(world.node).segment(leaf.segment)->memory()->host().data() + leaf.offset,
                sizeof value);
    return value;
  }
};

}  // namespace

TEST_CASE("an op over arrays of a GPU makes its results there, and they are charged there") {
  WorkingGpus node;
  constexpr auto there = Device::cuda(1);
  constexpr std::int64_t count = 1000;
  const auto on_host = NodeAudit(node.world.node).charged()[Resource::memory];
  const auto one = node.put(node.first, there, count, 1);
  const auto two = node.put(node.second, there, count, 2);
  const auto inputs = node.charged(there);
  node.first.contribute(Kind::allreduce, {one});
  const auto work = node.second.contribute(Kind::allreduce, {two});
  const auto done = node.second.done(work);
  REQUIRE(done);
  CHECK(done->items[0].manifest.leaves[0].device == there);
  CHECK(node.first_of(done->items[0]) == 3);
  CHECK(node.charged(there) > inputs);
  CHECK(node.charged(Device::cuda(0)) == 0);
  CHECK(NodeAudit(node.world.node).charged()[Resource::memory] == on_host);
  for (auto* client : {&node.first, &node.second})
    client->record(ipc::SubmissionType::release, ipc::Release{{done->items[0].object}});
  // The next result takes the same memory, and one on another GPU does not.
  const auto kept = node.charged(there);
  node.first.contribute(Kind::allreduce, {one});
  REQUIRE(node.second.done(node.second.contribute(Kind::allreduce, {two})));
  CHECK(node.charged(there) == kept);
}

TEST_CASE("an op on a GPU pays for what waits for its worker") {
  WorkingGpus node;
  node.world.outside.jobs.hold = true;
  constexpr std::int64_t count = 1 << 15;  // too large to be done at once
  const auto heap_of_op = [&](ipc::ObjectId one, ipc::ObjectId two) {
    const auto before = node.heap();
    node.first.contribute(Kind::allreduce, {one});
    node.second.contribute(Kind::allreduce, {two});
    const auto during = node.heap();
    node.world.outside.jobs.end_all();
    return during - before;
  };
  const auto put_on_host = [](TestClient& client) {
    return client.seal(client.lease(count * sizeof(float)), 0, std::vector<float>(count, 1.0F));
  };
  constexpr auto gpu_used = Device::cuda(0);
  const auto on_host = heap_of_op(put_on_host(node.first), put_on_host(node.second));
  const auto on_gpu = heap_of_op(node.put(node.first, gpu_used, count, 1), node.put(node.second, gpu_used, count, 2));
  CHECK(on_gpu > on_host);
  CHECK(NodeAudit(node.world.node).contradictions().empty());
}

TEST_CASE("an op waits for memory of its GPU, whatever is free elsewhere") {
  WorkingGpus node;
  constexpr auto there = Device::cuda(0);
  constexpr std::int64_t count = WorkingGpus::budget / 16;  // a quarter of the budget
  const auto one = node.put(node.first, there, count, 1);
  const auto two = node.put(node.second, there, count, 2);
  const auto held = node.put(node.second, there, count, 3);
  const auto more = node.put(node.second, there, count / 2, 3);
  node.first.contribute(Kind::allreduce, {one});
  const auto work = node.second.contribute(Kind::allreduce, {two});
  CHECK_FALSE(node.second.done(work));
  CHECK(node.first.status().waiting_for_memory() == 1);
  SECTION("which comes back") {
    node.second.record(ipc::SubmissionType::release, ipc::Release{{held}});
    node.second.die();  // it keeps its segments while it lives
    while (node.world.node.goes_on()) node.world.go_on();
    const auto done = node.first.done(ipc::WorkId{1});
    REQUIRE(done);
    CHECK(node.first_of(done->items[0]) == 3);
  }
  SECTION("which does not come") {
    node.world.advance(std::chrono::seconds(31));
    const auto failed = node.second.failed(work);
    REQUIRE(failed);
    CHECK(failed->message().find("cuda:0") != std::string::npos);
    CHECK(failed->message().find("the largest holders are test (pid 1002): 640 KiB on cuda:0") != std::string::npos);
  }
  static_cast<void>(more);
}

TEST_CASE("an op whose result can never fit on its GPU fails at once") {
  WorkingGpus node;
  constexpr auto there = Device::cuda(0);
  const auto one = node.put(node.first, there, 100'000, 1);
  ipc::Combine combine;
  combine.work = {100};
  combine.ranks = 2;
  combine.kind = Kind::allgather;
  combine.layout = ipc::Layout::stack;
  combine.timeout_ns = Duration(std::chrono::seconds(30)).count();
  combine.objects.resize(10, one);
  combine.ranks = 10;
  node.first.record(ipc::SubmissionType::combine, combine);
  const auto failed = node.first.failed({100});
  REQUIRE(failed);
  CHECK((failed->code() == Code::out_of_memory || failed->code() == Code::quota_exceeded));
  CHECK(failed->message().find("cuda:0") != std::string::npos);
}

TEST_CASE("free results on a GPU are given back when its memory is wanted, and those elsewhere stay") {
  WorkingGpus node;
  constexpr auto there = Device::cuda(0);
  constexpr auto elsewhere = Device::cuda(1);
  constexpr std::int64_t count = WorkingGpus::budget / sizeof(float) / 8;
  const auto reduce = [&](Device device) {
    const auto one = node.put(node.first, device, count, 1);
    const auto two = node.put(node.second, device, count, 2);
    node.first.contribute(Kind::allreduce, {one});
    const auto work = node.second.contribute(Kind::allreduce, {two});
    const auto done = node.second.done(work);
    REQUIRE(done);
    for (auto* client : {&node.first, &node.second})
      client->record(ipc::SubmissionType::release, ipc::Release{{done->items[0].object}});
  };
  reduce(there);
  reduce(elsewhere);
  const auto on_the_other = node.charged(elsewhere);
  const auto free = WorkingGpus::budget - node.charged(there);
  node.first.ask_lease(free + 1, 0, false, Gpu::wire_of(there));
  CHECK(node.first.reply().body_as_Segment());
  CHECK(node.charged(elsewhere) == on_the_other);
}

TEST_CASE("arrays of a GPU are for no other user, so an open group takes none") {
  WorkingGpus node;
  TestClient guest(node.world, 3, 2000);
  node.first.join("open", 0, 2, muster::OnLoss::fail, true);
  guest.join("open", 1, 2, muster::OnLoss::fail, true);
  const auto ours = node.put(node.first, Device::cuda(0), 4, 1);
  const auto theirs = node.put(guest, Device::cuda(0), 4, 2);
  node.first.contribute(Kind::allreduce, {ours});
  const auto work = guest.contribute(Kind::allreduce, {theirs});
  const auto failed = guest.failed(work);
  REQUIRE(failed);
  CHECK(failed->message() == "allreduce #0 has arrays on cuda:0, and its group is open to other users");
  node.first.contribute(Kind::broadcast, {ours});
  const auto copied = guest.failed(guest.contribute(Kind::broadcast));
  REQUIRE(copied);
  CHECK(copied->code() == Code::invalid);
}

TEST_CASE("an op over arrays of two GPUs makes a result on each, and charges it there") {
  WorkingGpus node;
  node.world.outside.jobs.run = run_over_devices;
  const auto one = node.put(node.first, Device::cuda(0), 4, 1);
  const auto two = node.put(node.second, Device::cuda(1), 4, 2);
  const auto before = std::array{node.charged(Device::cuda(0)), node.charged(Device::cuda(1))};
  const auto work = node.first.contribute(Kind::allreduce, {one});
  const auto of_second = node.second.done(node.second.contribute(Kind::allreduce, {two}));
  const auto of_first = node.first.done(work);
  REQUIRE(of_first);
  REQUIRE(of_second);
  CHECK(of_first->items[0].manifest.leaves[0].device == Device::cuda(0));
  CHECK(of_second->items[0].manifest.leaves[0].device == Device::cuda(1));
  CHECK(node.first_of(of_first->items[0]) == 3);
  CHECK(node.first_of(of_second->items[0]) == 3);
  CHECK(node.charged(Device::cuda(0)) > before[0]);
  CHECK(node.charged(Device::cuda(1)) > before[1]);
  CHECK(NodeAudit(node.world.node).contradictions().empty());
}

TEST_CASE("a reduce over two GPUs makes a result on the root's, and keeps nothing on the other") {
  WorkingGpus node;
  node.world.outside.jobs.run = run_over_devices;
  const auto one = node.put(node.first, Device::cuda(0), 4, 1);
  const auto two = node.put(node.second, Device::cuda(1), 4, 2);
  const auto before = node.charged(Device::cuda(1));
  const auto work = node.first.contribute(Kind::reduce, {one});
  REQUIRE(node.second.done(node.second.contribute(Kind::reduce, {two}))->items.empty());
  const auto of_root = node.first.done(work);
  REQUIRE(of_root);
  CHECK(of_root->items[0].manifest.leaves[0].device == Device::cuda(0));
  CHECK(node.first_of(of_root->items[0]) == 3);
  CHECK(node.charged(Device::cuda(1)) == before);
}

TEST_CASE("an op over two GPUs waits for memory of the one that lacks it, and takes none of the other meanwhile") {
  WorkingGpus node;
  node.world.outside.jobs.run = run_over_devices;
  constexpr std::int64_t count = WorkingGpus::budget / 16;  // a quarter of the budget
  const auto one = node.put(node.first, Device::cuda(0), count, 1);
  const auto two = node.put(node.second, Device::cuda(1), count, 2);
  const auto held = node.put(node.second, Device::cuda(1), 3 * count, 3);
  const auto before = node.charged(Device::cuda(0));
  const auto work = node.first.contribute(Kind::allreduce, {one});
  node.second.contribute(Kind::allreduce, {two});
  CHECK(node.first.status().waiting_for_memory() == 1);
  CHECK(node.charged(Device::cuda(0)) == before);
  node.world.advance(std::chrono::seconds(31));
  const auto failed = node.first.failed(work);
  REQUIRE(failed);
  CHECK(failed->message().find("cuda:1") != std::string::npos);
  CHECK(failed->message().find("1 MiB on cuda:1") != std::string::npos);
  static_cast<void>(held);
}

TEST_CASE("a scan over two GPUs makes each rank's prefix on its GPU, and keeps nothing of the others") {
  WorkingGpus node;
  node.world.outside.jobs.run = run_over_devices;
  const auto one = node.put(node.first, Device::cuda(0), 4, 1);
  const auto two = node.put(node.second, Device::cuda(1), 4, 2);
  const auto before = std::array{node.charged(Device::cuda(0)), node.charged(Device::cuda(1))};
  const auto work = node.first.contribute(Kind::scan, {one});
  const auto of_second = node.second.done(node.second.contribute(Kind::scan, {two}));
  const auto of_first = node.first.done(work);
  REQUIRE(of_first);
  REQUIRE(of_second);
  CHECK(of_first->items[0].object == one);
  CHECK(node.first_of(of_second->items[0]) == 3);
  CHECK(of_second->items[0].manifest.leaves[0].device == Device::cuda(1));
  CHECK(node.charged(Device::cuda(0)) == before[0]);
  CHECK(node.charged(Device::cuda(1)) > before[1]);
  CHECK(NodeAudit(node.world.node).contradictions().empty());
}

TEST_CASE("an op over arrays of the host and of a GPU fails on every seat, and says why") {
  WorkingGpus node;
  ipc::Combine combine;
  combine.work = {100};
  combine.ranks = 2;
  combine.kind = Kind::all_to_all;
  combine.layout = ipc::Layout::concat;
  combine.timeout_ns = Duration(std::chrono::seconds(30)).count();
  const auto there = node.put(node.first, Device::cuda(0), 4, 1);
  const auto here = Gpu::seal(node.first, node.first.lease(4096), Device::cpu());
  combine.objects = {there, there, here, here};
  node.first.record(ipc::SubmissionType::combine, combine);
  const auto failed = node.first.failed({100});
  REQUIRE(failed);
  CHECK(failed->message().find("cpu") != std::string::npos);
  CHECK(failed->message().find("cuda:0") != std::string::npos);
}

TEST_CASE("a combine over refs of two GPUs has its result where the first ref lies") {
  WorkingGpus node;
  node.world.outside.jobs.run = run_over_devices;
  const auto first = GENERATE(0, 1);
  const auto one = Device::cuda(static_cast<std::uint8_t>(first));
  const auto other = Device::cuda(static_cast<std::uint8_t>(1 - first));
  ipc::Combine combine;
  combine.work = {100};
  combine.ranks = 2;
  combine.kind = GENERATE(Kind::allreduce, Kind::reduce, Kind::allgather);
  if (combine.kind == Kind::allgather) combine.layout = ipc::Layout::stack;
  combine.timeout_ns = Duration(std::chrono::seconds(30)).count();
  combine.objects = {node.put(node.first, one, 4, 1), node.put(node.first, other, 4, 2)};
  const auto before = node.charged(other);
  node.first.record(ipc::SubmissionType::combine, combine);
  const auto done = node.first.done({100});
  REQUIRE(done);
  REQUIRE(done->items.size() == 1);
  CHECK(done->items[0].manifest.leaves[0].device == one);
  CHECK(node.first_of(done->items[0]) == (combine.kind == Kind::allgather ? 1 : 3));
  CHECK(node.charged(other) == before);
}

TEST_CASE("a hard lease on a GPU is refused") {
  Gpu node;
  node.first.ask_lease(unit, 1000, true, Gpu::wire_of(gpu));
  CHECK(node.first.failure() == Code::invalid);
  CHECK(node.charged(memory_of(gpu)) == 0);
}

namespace {

/// A node with a GPU, whose clients may have pinned memory of the host.
struct Pinned : Gpu {
  Pinned() : Gpu(true) {}

  /// An array of four ones in pinned memory.
  ipc::ObjectId put(TestClient& client) {
    client.ask_lease(4096, 1000, false, wire_of(Device::pinned()));
    const ipc::SegmentId segment{client.reply().body_as_Segment()->segment()};
    client.mapped(segment);
    const auto memory = NodeAudit(world.node).segment(segment)->memory()->host();
    std::fill_n(reinterpret_cast<float*>(memory.data()), 4, 1.0F);
    return seal(client, segment, Device::pinned());
  }
};

}  // namespace

TEST_CASE("pinned memory is charged as memory of the host, and ends with its client") {
  Pinned node;
  const auto memory = node.charged(Resource::memory);
  const auto maps = node.charged(Resource::maps);
  node.first.ask_lease(1 << 20, 1000, false, Gpu::wire_of(Device::pinned()));
  REQUIRE(node.first.reply().body_as_Segment());
  CHECK(node.charged(Resource::memory) == memory + (1 << 20));
  CHECK(node.charged(Resource::maps) == maps + 1);
  CHECK(node.charged(memory_of(gpu)) == 0);
  node.first.die();
  CHECK(node.charged(Resource::memory) < memory);
}

TEST_CASE("a client is told how much memory it may have pinned") {
  Pinned node;
  const auto& devices = *node.first.reply().body_as_Welcome()->devices();
  REQUIRE(devices.size() == 3);
  const auto& pinned = devices[2]->device();
  CHECK(Device::of(pinned.kind(), pinned.index()) == Device::pinned());
  CHECK(devices[2]->bytes() == Gpu::settings().quota.total[Resource::memory]);
}

TEST_CASE("a pinned array is where its segment is, and is given as it is") {
  Pinned node;
  node.first.join("g", 0, 2);
  node.second.join("g", 1, 2);
  const auto object = node.put(node.first);
  CHECK(node.first.describe(object).leaves[0].device == Device::pinned());
  node.first.contribute(Kind::broadcast, {object});
  const auto done = node.second.done(node.second.contribute(Kind::broadcast));
  REQUIRE(done);
  CHECK(done->items[0].object == object);
  CHECK(done->items[0].manifest.leaves[0].device == Device::pinned());
  const auto before = node.first.count(ipc::CompletionType::seal_failed);
  Gpu::seal(node.first, node.first.lease(4096), Device::pinned());
  CHECK(node.first.count(ipc::CompletionType::seal_failed) == before + 1);
}

TEST_CASE("pinned memory and other memory of the host agree, and what comes out is not pinned") {
  Pinned node;
  node.first.join("g", 0, 2);
  node.second.join("g", 1, 2);
  node.first.contribute(Kind::allreduce, {node.put(node.first)});
  const auto work =
      node.second.contribute(Kind::allreduce, {Gpu::seal(node.second, node.second.lease(4096), Device::cpu())});
  const auto done = node.second.done(work);
  REQUIRE(done);
  const auto& leaf = done->items[0].manifest.leaves[0];
  CHECK(leaf.device == Device::cpu());
  const auto memory = NodeAudit(node.world.node).segment(leaf.segment)->memory()->host();
  CHECK(*reinterpret_cast<const float*>(memory.data() + leaf.offset) == 1);
}

TEST_CASE("pinned memory and memory of a GPU disagree") {
  Pinned node;
  node.first.join("g", 0, 2);
  node.second.join("g", 1, 2);
  node.first.contribute(Kind::allreduce, {node.put(node.first)});
  const auto work = node.second.contribute(Kind::allreduce, {Gpu::seal(node.second, Gpu::lease(node.second), gpu)});
  const auto failed = node.second.failed(work);
  REQUIRE(failed);
  CHECK(failed->code() == Code::mismatch);
  CHECK(failed->message().find("pinned") != std::string::npos);
}

TEST_CASE("what a dead client leaves in pinned memory stays pinned") {
  Pinned node;
  node.first.join("g", 0, 2);
  node.second.join("g", 1, 2);
  const auto object = node.put(node.first);
  node.first.contribute(Kind::broadcast, {object});
  REQUIRE(node.second.done(node.second.contribute(Kind::broadcast)));
  node.first.die();
  for (int i = 0; i < 10; ++i) node.world.advance(std::chrono::seconds(1));
  while (node.world.node.goes_on()) node.world.go_on();
  CHECK(node.second.describe(object).leaves[0].device == Device::pinned());
}
