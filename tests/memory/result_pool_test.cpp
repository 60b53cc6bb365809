#include <catch2/catch.hpp>

#include <cstring>
#include <deque>
#include <random>
#include <vector>

#include "ipc/random.hpp"
#include "memory/backings.hpp"
#include "memory/device_backing.hpp"
#include "memory/quotas.hpp"
#include "memory/result_pool.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;

namespace {

struct World {
  explicit World(Quota quota) : ledger(quota), table(ledger, backing()), pool(table) {}
  Ledger ledger;
  SegmentTable table;
  ResultPool pool;
};

constexpr UserId user = 1000;

}  // namespace

TEST_CASE("results share segments and give their regions back") {
  World world(memory_quota(16 * mebibyte));
  {
    auto first = world.pool.allocate(user, 1000);
    auto second = world.pool.allocate(user, 1010);
    REQUIRE(first);
    REQUIRE(second);
    CHECK(first->segment() == second->segment());
    CHECK(first->offset() != second->offset());
    CHECK(first->bytes() == 1000);
    CHECK(reinterpret_cast<std::uintptr_t>(host_address(first->place())) % 64 == 0);
    std::memset(host_address(second->place()), 1, second->bytes());
    CHECK(world.table.size() == 1);
    CHECK(world.pool.used_bytes() >= 2010);
  }
  CHECK(world.pool.used_bytes() == 0);
  CHECK(world.pool.region_releases() == 2);
  CHECK(world.ledger.total().used[0] == 64 * kibibyte);  // kept for the next result
}

TEST_CASE("steady state makes no new segment and comes back to the same bytes") {
  World world(memory_quota(16 * mebibyte));
  std::byte* before = nullptr;
  for (int round = 0; round < 1000; ++round) {
    auto region = world.pool.allocate(user, 200'000);
    REQUIRE(region);
    if (before) CHECK(host_address(region->place()) == before);
    before = host_address(region->place());
  }
  CHECK(world.table.size() == 1);
}

TEST_CASE("a large result gets a segment of its own") {
  World world(memory_quota(16 * mebibyte));
  auto region = world.pool.allocate(user, 5 * mebibyte);
  REQUIRE(region);
  host_address(region->place())[5 * mebibyte - 1] = std::byte{1};
  CHECK(world.ledger.total().used[0] == 5 * mebibyte);
}

TEST_CASE("no two users ever share a segment") {
  World world(memory_quota(16 * mebibyte));
  SegmentId of_first;
  {
    auto region = world.pool.allocate(1, 1000);
    of_first = region->segment();
    std::memset(host_address(region->place()), 0x5a, 1000);
  }
  auto region = world.pool.allocate(2, 1000);
  CHECK(region->segment() != of_first);
  for (std::size_t i = 0; i < 1000; ++i) CHECK(host_address(region->place())[i] == std::byte{0});
}

TEST_CASE("a separate pool shares no segment with anything else") {
  World world(memory_quota(16 * mebibyte));
  const PoolApart first = world.pool.make_apart(user);
  const PoolApart second = world.pool.make_apart(user);
  auto own = world.pool.allocate(user, 1000);
  auto in_first = world.pool.allocate(first, 1000);
  auto in_second = world.pool.allocate(second, 1000);
  REQUIRE((own && in_first && in_second));
  CHECK(in_first->segment() != own->segment());
  CHECK(in_second->segment() != own->segment());
  CHECK(in_first->segment() != in_second->segment());
  CHECK(world.pool.allocate(first, 1000)->segment() == in_first->segment());
}

TEST_CASE("a separate pool ends with its last result") {
  World world(memory_quota(16 * mebibyte));
  PoolApart apart = world.pool.make_apart(user);
  auto early = world.pool.allocate(apart, 1000);
  auto late = world.pool.allocate(apart, 3 * mebibyte);
  REQUIRE((early && late));
  apart.reset();
  late->reset();
  CHECK(world.pool.pools_apart() == 1);
  std::memset(host_address(early->place()), 1, early->bytes());
  early->reset();
  CHECK(world.pool.pools_apart() == 0);
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("a separate pool that nobody used ends at once") {
  World world(memory_quota(16 * mebibyte));
  PoolApart apart = world.pool.make_apart(user);
  apart = world.pool.make_apart(user);
  CHECK(world.pool.pools_apart() == 1);
  apart = {};
  CHECK(world.pool.pools_apart() == 0);
}

TEST_CASE("a separate pool begins small, grows, and gives free segments back when asked") {
  World world(memory_quota(64 * mebibyte));
  const PoolApart apart = world.pool.make_apart(user);
  std::deque<ResultRegion> held;
  held.push_back(std::move(world.pool.allocate(apart, 1000).value()));
  CHECK(world.ledger.total().used[0] == 64 * kibibyte);
  for (int i = 0; i < 40; ++i) held.push_back(std::move(world.pool.allocate(apart, 400'000).value()));
  CHECK(world.table.size() <= 42);
  held.clear();
  CHECK(world.pool.trim() > 0);
  CHECK(holds_nothing(world.ledger));
  CHECK(world.pool.allocate(apart, 1000));
}

TEST_CASE("a small segment is made if a usual one does not fit any more") {
  const bool by_quota = GENERATE(false, true);
  constexpr auto room = 200 * kibibyte;
  World world(by_quota ? memory_quota(16 * mebibyte, room, room) : memory_quota(room));
  auto region = world.pool.allocate(user, 100'000);
  REQUIRE(region);
  CHECK(world.ledger.total().used[0] == 100 * kibibyte);
}

TEST_CASE("trim gives back wholly free segments and nothing else") {
  World world(memory_quota(16 * mebibyte));
  std::deque<ResultRegion> held;
  for (int i = 0; i < 4; ++i) held.push_back(std::move(world.pool.allocate(user, mebibyte).value()));
  REQUIRE(world.table.size() == 4);
  CHECK(world.pool.trim() == 0);
  while (world.table.drops()) world.table.drop_more();
  held.pop_front();
  held.pop_front();
  SegmentPtr lent = world.table.find(held.front().segment());
  CHECK(world.pool.trim() == 2 * mebibyte);
  CHECK(world.table.size() == 2);
  held.clear();
  CHECK(world.pool.trim() == mebibyte);  // the holder of `lent` uses the other one
  lent.reset();
  CHECK(world.pool.trim() == mebibyte);
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("a booked segment takes memory when it is made, and is not kept if it is never made") {
  World world(memory_quota(16 * mebibyte));
  const auto book_some = [&] {
    std::deque<ResultRegion> booked;
    for (int i = 0; i < 4; ++i) booked.push_back(std::move(world.pool.book(user, 2 * mebibyte).value()));
    for (int i = 0; i < 4; ++i) booked.push_back(std::move(world.pool.book(user, 20'000).value()));
    return booked;
  };
  auto booked = book_some();
  const auto first = booked.front().segment();
  CHECK(world.ledger.total().used[0] >= 8 * mebibyte);
  for (const auto& region : booked) {
    CHECK_FALSE(ResultPool::is_made(region));
    CHECK(region.place() == Place{});
  }
  SECTION("it is let go") {
    while (!booked.empty()) booked.pop_back();
    CHECK(holds_nothing(world.ledger));
    CHECK(world.table.size() == 0);
    CHECK(book_some().front().segment() == first);
  }
  SECTION("others make the segment that they share") {
    auto other = world.pool.allocate(user, 20'000);
    REQUIRE(other);
    CHECK(host_address(other->place()) != nullptr);
    CHECK(other->segment() == booked.back().segment());
    CHECK(ResultPool::is_made(booked.back()));
    CHECK_FALSE(ResultPool::is_made(booked.front()));
    REQUIRE(world.pool.make(booked.back()));
    std::memset(host_address(booked.back().place()), 1, booked.back().bytes());
  }
}

TEST_CASE("a full store is OutOfMemory and takes nothing") {
  World world(memory_quota(2 * mebibyte));
  auto first = world.pool.allocate(user, 1'500'000);
  REQUIRE(first);
  const auto used = world.ledger.total().used;
  auto second = world.pool.allocate(user, 1'500'000);
  REQUIRE_FALSE(second);
  CHECK(second.error().code() == Code::out_of_memory);
  CHECK(world.ledger.total().used == used);
  first->reset();
  CHECK(world.pool.allocate(user, 1'500'000));
}

TEST_CASE("regions never overlap and keep their bytes, in any order of use") {
  const auto seed = GENERATE(range<std::uint64_t>(1, 7));
  INFO("seed " << seed);
  muster::ipc::test::Random random(seed);
  World world(memory_quota(32 * mebibyte));
  struct Held {
    ResultRegion region;
    std::byte pattern;
  };
  std::vector<Held> held;
  for (int step = 0; step < 600; ++step) {
    if (random.chance(0.55)) {
      const auto bytes = random.chance(0.8) ? random.between(1, 20'000) : random.between(1, 3'000'000);
      auto region = world.pool.allocate(static_cast<UserId>(random.between(1, 2)), bytes);
      if (!region) {
        REQUIRE(region.error().code() == Code::out_of_memory);
        world.pool.trim();
        continue;
      }
      const auto pattern = static_cast<std::byte>(random.between(0, 255));
      std::memset(host_address(region->place()), static_cast<int>(pattern), bytes);
      held.push_back({std::move(*region), pattern});
    } else if (!held.empty()) {
      std::swap(held[random.between(0, held.size() - 1)], held.back());
      const auto& last = held.back();
      const auto* data = host_address(last.region.place());
      REQUIRE(std::all_of(data, data + last.region.bytes(), [&](std::byte byte) { return byte == last.pattern; }));
      held.pop_back();
    }
  }
  held.clear();
  world.pool.trim();
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("the sum of free bytes is right after any sequence of results, ends and trims") {
  std::mt19937 random(7);
  World world(memory_quota(64 * mebibyte));
  std::vector<PoolApart> pools(5);
  std::vector<ResultRegion> regions;
  for (int step = 0; step < 3000; ++step) {
    const auto which = random() % pools.size();
    switch (random() % 8) {
      case 0: pools[which] = world.pool.make_apart(user); break;
      case 1: pools[which] = {}; break;
      case 2: world.pool.trim(); break;
      case 3: world.pool.trim(Resource::memory, user + static_cast<UserId>(random() % 2)); break;
      case 4:
      case 5: {
        const std::uint64_t bytes = 1 + random() % (random() % 4 == 0 ? 2 * mebibyte : 9000);
        auto region = pools[which] ? world.pool.allocate(pools[which], bytes) : world.pool.allocate(user + 1, bytes);
        if (region) regions.push_back(std::move(*region));
        break;
      }
      default:
        if (regions.empty()) break;
        std::swap(regions[random() % regions.size()], regions.back());
        regions.pop_back();
    }
    while (world.table.drops()) world.table.drop_more();
    REQUIRE(world.pool.free_bytes() == world.ledger.total().used[Resource::memory] - world.pool.used_bytes());
  }
  regions.clear();
  pools.clear();
  const std::uint64_t left = world.pool.free_bytes();
  CHECK(world.pool.trim() == left);
  CHECK(world.pool.trim() == 0);
  while (world.table.drops()) world.table.drop_more();
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("a segment of results that a device could not make is dropped, and never serves again") {
  DeviceBacking device;
  device.late = true;
  Quota quota = memory_quota(16 * mebibyte);
  constexpr auto gpu = muster::Device::cuda(0);
  for (auto* amounts : {&quota.total, &quota.per_user, &quota.per_client}) (*amounts)[memory_of(gpu)] = 16 * mebibyte;
  Ledger ledger(quota);
  Backings backings(backing());
  backings.add(gpu, device);
  SegmentTable table(ledger, std::move(backings));
  ResultPool pool(table);
  const auto fail = [&] {
    const auto memory = device.coming.back().lock();
    REQUIRE(memory);
    memory->finish(muster::Error(Code::out_of_memory, "the GPU is full", "wait"));
  };
  SECTION("its region comes back after that") {
    auto region = pool.allocate({user, gpu}, 1000);
    REQUIRE(region);
    fail();
    region->reset();
  }
  SECTION("its region came back before that") {
    pool.allocate({user, gpu}, 1000)->reset();
    fail();
    device.late = false;
    const auto next = pool.allocate({user, gpu}, 1000);
    REQUIRE(next);
    CHECK_FALSE(next->place().memory->is_lost());
  }
  SECTION("others still have regions in it") {
    auto one = pool.allocate({user, gpu}, 1000);
    auto two = pool.allocate({user, gpu}, 1000);
    fail();
    const auto refused = pool.allocate({user, gpu}, 1000);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code() == Code::out_of_memory);
    one->reset();
    two->reset();
  }
  static_cast<void>(pool.trim());
  CHECK(ledger.total().used[memory_of(gpu)] == 0);
  CHECK(pool.free_bytes(memory_of(gpu)) == 0);
}
