// What every backing of segments must do, and how the table handles memory without an address on the host.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstring>
#include <vector>

#include "memory/client_side.hpp"
#include "memory/device_backing.hpp"
#include "memory/quotas.hpp"
#include "memory/result_pool.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;
using muster::Result;

namespace {

constexpr Payer owner{1000, {1}};
constexpr std::uint64_t bytes = 3 * 4096;

SegmentMemoryPtr make(SegmentSpec::Writer writer, bool hard = false) {
  auto made = backing().create({.id = {7}, .bytes = bytes, .writer = writer, .hard = hard});
  REQUIRE(made);
  return *made;
}

bool all_are(std::span<const std::byte> memory, std::byte value) {
  return std::all_of(memory.begin(), memory.end(), [&](std::byte byte) { return byte == value; });
}

/// A node with a GPU, which has 8 MiB.
struct DeviceWorld {
  static constexpr auto gpu = muster::Device::cuda(0);
  DeviceBacking device;
  Ledger ledger{quota()};
  int populated = 0;
  std::vector<Remains> remains;
  SegmentTable table{ledger,
                     backings(),
                     {.mapped = [this](const SegmentMemoryPtr&) { ++populated; },
                      .dispose =
                          [this](UserId, Remains left, std::function<void()> then) {
                            remains.push_back(std::move(left));
                            then();
                          }}};

 private:
  static Quota quota() {
    Quota quota = memory_quota(64 * mebibyte);
    for (auto* amounts : {&quota.total, &quota.per_user, &quota.per_client})
      (*amounts)[memory_of(gpu)] = 4 * DeviceBacking::unit_bytes;
    return quota;
  }
  Backings backings() {
    Backings backings(backing());
    backings.add(gpu, device);
    return backings;
  }
};

}  // namespace

TEST_CASE("the daemon's own segment is there at once and all zero") {
  const auto memory = make(SegmentSpec::Writer::daemon);
  REQUIRE(memory->host().size() == bytes);
  CHECK(reinterpret_cast<std::uintptr_t>(memory->host().data()) % 64 == 0);
  CHECK(all_are(memory->host(), std::byte{0}));
  std::fill(memory->host().begin(), memory->host().end(), std::byte{9});
  memory->close_descriptor();
  CHECK(memory->descriptor() == -1);
  CHECK(all_are(memory->host(), std::byte{9}));
}

TEST_CASE("the daemon reads what a client writes once it is sealed, and what it writes later") {
  Ledger ledger(memory_quota(mebibyte));
  SegmentTable table(ledger, backing());
  const auto segment = table.lease(owner, {bytes}).value();
  const auto& memory = segment->memory();
  CHECK(memory->host().empty());
  const auto writer = WriterMapping::map(*segment, segment->descriptors());
  std::memset(writer.data(), 1, bytes);
  REQUIRE(memory->seal());
  REQUIRE(memory->host().size() == bytes);
  CHECK(all_are(memory->host(), std::byte{1}));
  std::memset(writer.data(), 2, bytes);
  CHECK(all_are(memory->host(), std::byte{2}));
}

TEST_CASE("pages may be made present at any time, and keep their bytes") {
  const auto memory = make(SegmentSpec::Writer::daemon);
  std::fill(memory->host().begin(), memory->host().end(), std::byte{5});
  static_cast<void>(memory->populate(0, bytes));
  static_cast<void>(memory->populate(4096, 4096));
  CHECK(all_are(memory->host(), std::byte{5}));
}

TEST_CASE("a segment on a device is leased, becomes ready and ends without an address on the host") {
  DeviceWorld world;
  {
    const auto segment = world.table.lease(owner, {.bytes = 1, .device = DeviceWorld::gpu}).value();
    CHECK(segment->device() == DeviceWorld::gpu);
    CHECK(segment->bytes() == DeviceBacking::unit_bytes);
    CHECK(world.ledger.client(owner.client).used[memory_of(DeviceWorld::gpu)] == DeviceBacking::unit_bytes);
    CHECK(world.ledger.total().used[Resource::memory] == 0);
    CHECK(world.ledger.total().used[Resource::maps] == 0);
    CHECK(segment->descriptors().size() == 1);
    REQUIRE(seal_now(world.table.mapped(owner.client, segment->id())));
    CHECK(segment->state() == Segment::State::ready);
    CHECK(segment->data() == nullptr);
    CHECK(world.table.readable(segment->id(), owner.user));
    CHECK(world.table.owned(segment->id(), owner.client));
  }
  CHECK(world.populated == 0);
  world.table.drop_client(owner.client);
  REQUIRE(world.remains.size() == 1);
  CHECK(world.remains.front().memory->descriptor() >= 0);  // its destroyer closes it
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("memory of a device is charged apart, and its limit names it") {
  DeviceWorld world;
  const SegmentTable::Wanted half{.bytes = 2 * DeviceBacking::unit_bytes, .device = DeviceWorld::gpu};
  REQUIRE(world.table.lease(owner, {.bytes = 63 * mebibyte}));
  REQUIRE(world.table.lease(owner, half));
  REQUIRE(world.table.lease(owner, half));
  const auto full = world.table.lease(owner, half);
  CHECK(full.error().code() == Code::out_of_memory);
  CHECK(full.error().message() ==
        "the store is full on cuda:0: 8 MiB of 8 MiB are held, the request asks for 4 MiB more");
  CHECK(world.ledger.possible(owner, memory_of(DeviceWorld::gpu), 9 * mebibyte).error().message() ==
        "the request asks for 9 MiB on cuda:0; the daemon has 8 MiB on cuda:0 in all");
  const auto elsewhere = world.table.lease(owner, {.bytes = 1, .device = muster::Device::cuda(1)});
  CHECK(elsewhere.error().code() == Code::invalid);
  CHECK(elsewhere.error().message() == "the daemon has no memory on cuda:1; it has memory on cpu, cuda:0");
}

TEST_CASE("results in memory without an address here are made once and used again") {
  DeviceWorld world;
  SegmentTable table(world.ledger, world.device);
  ResultPool pool(table);
  SegmentId first;
  for (int round = 0; round < 3; ++round) {
    auto region = pool.book(owner.user, 1000);
    REQUIRE(region);
    CHECK(ResultPool::is_made(*region) == (round > 0));
    REQUIRE(pool.make(*region));
    CHECK(ResultPool::is_made(*region));
    CHECK(region->place().memory->host().empty());
    if (round == 0) first = region->segment();
    CHECK(region->segment() == first);
  }
  CHECK(pool.trim() == DeviceBacking::unit_bytes);
  CHECK(holds_nothing(world.ledger));
}
