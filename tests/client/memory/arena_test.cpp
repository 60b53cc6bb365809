// The arena over segments that a fake daemon grants: who may use which bytes, and when.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <set>

#include "memory/arena.hpp"

namespace {

using muster::Code;
using muster::Error;
using muster::Result;
using muster::detail::Arena;
using muster::detail::LeasedSegment;
namespace ipc = muster::ipc;

constexpr std::uint64_t kept_bytes = 8 << 20;
constexpr auto no_wait = std::chrono::nanoseconds(0);

/// Grants memfds up to a budget.
struct Granter {
  muster::detail::OrderedMutex mutex{muster::detail::Rank::memory};
  std::uint64_t budget = 64 << 20;
  std::uint32_t last = 0;
  std::map<std::uint32_t, std::uint64_t> granted;
  std::vector<std::uint64_t> asked;
  bool wanted = false;

  Result<LeasedSegment> lease(std::uint64_t bytes) {
    asked.push_back(bytes);
    std::uint64_t used = 0;
    for (const auto& [id, size] : granted) used += size;
    if (used + bytes > budget) return Error(Code::out_of_memory, "full");
    auto fd = ipc::create_memfd("test", bytes).value();
    auto mapping = ipc::Mapping::map(fd, bytes, ipc::Access::read_write).value();
    granted.emplace(++last, bytes);
    return LeasedSegment{{last}, std::move(fd), muster::detail::SegmentMapping(std::move(mapping))};
  }
  Arena::Source source() {
    return {
        [this](std::uint64_t bytes, std::chrono::nanoseconds, const std::function<bool()>&) { return lease(bytes); },
        [this](ipc::SegmentId id) { REQUIRE(granted.erase(id.value) == 1); }, [] {}, [this] { return wanted; }};
  }
};

ipc::ObjectId object(std::uint64_t number) { return {number}; }

TEST_CASE("a region is fresh if no part of it was used before") {
  Granter granter;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  constexpr std::uint64_t bytes = 1 << 20;
  auto* first = arena.allocate(bytes, 0, no_wait).value();
  CHECK(arena.find(first)->fresh);
  arena.free(first);
  auto* again = arena.allocate(bytes, 0, no_wait).value();
  REQUIRE(again == first);
  CHECK_FALSE(arena.find(again)->fresh);
}

TEST_CASE("the bytes of fresh regions are zero, whatever the order of allocations, writes and frees") {
  Granter granter;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  std::mt19937 random(11);
  std::vector<std::byte*> held;
  int fresh = 0, used = 0;
  for (int step = 0; step < 4000; ++step) {
    if (!held.empty() && random() % 2) {
      std::swap(held[random() % held.size()], held.back());
      arena.free(held.back());
      held.pop_back();
      continue;
    }
    auto allocated = arena.allocate(1 + random() % (random() % 8 ? 5000 : 3 << 20), 0, no_wait);
    if (!allocated) continue;
    const auto region = *arena.find(*allocated);
    if (region.fresh)
      CHECK(std::all_of(*allocated, *allocated + region.bytes, [](std::byte b) { return b == std::byte{0}; }));
    (region.fresh ? fresh : used) += 1;
    std::memset(*allocated, 0xff, region.bytes);
    held.push_back(*allocated);
  }
  CHECK(fresh > 50);
  CHECK(used > 50);
}

TEST_CASE("memory is aligned, and one segment serves many arrays") {
  Granter granter;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  for (const std::uint64_t bytes : {0UL, 1UL, 63UL, 64UL}) {
    auto* address = arena.allocate(bytes, 0, no_wait).value();
    CHECK(reinterpret_cast<std::uintptr_t>(address) % 64 == 0);
    std::memset(address, 1, bytes);
  }
  CHECK(granter.granted.size() == 1);
}

TEST_CASE("a large array gets a segment of its own size") {
  Granter granter;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  REQUIRE(arena.allocate(5 << 20, 0, no_wait));
  REQUIRE(granter.asked.size() == 1);
  CHECK(granter.asked.front() == (5 << 20));
}

TEST_CASE("find says which call made a region, for every address in it and for none outside") {
  Granter granter;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  auto* address = arena.allocate(1000, 7, no_wait).value();
  for (const int offset : {0, 1, 999}) {
    const auto found = arena.find(address + offset);
    REQUIRE(found);
    CHECK(found->call == 7);
    CHECK(found->address == address);
  }
  CHECK_FALSE(arena.find(address + arena.find(address)->bytes));
  CHECK_FALSE(arena.find(address - 1));
  int elsewhere = 0;
  CHECK_FALSE(arena.owns(&elsewhere));
}

TEST_CASE("a region is used again only when object and local array are gone") {
  Granter granter;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  std::byte* const address = arena.allocate(200'000, 0, no_wait).value();
  const std::byte* const addresses[] = {address + 5};
  REQUIRE(arena.adopt(object(1), addresses));
  const bool local_first = GENERATE(true, false);
  if (local_first) arena.free(address);
  else arena.object_gone(object(1));
  CHECK(arena.owns(address));
  if (local_first) arena.object_gone(object(1));
  else arena.free(address);
  CHECK_FALSE(arena.owns(address));
}

TEST_CASE("a region that two objects share outlives the first of them") {
  Granter granter;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  std::byte* const address = arena.allocate(100, 0, no_wait).value();
  const std::byte* const addresses[] = {address};
  REQUIRE(arena.adopt(object(1), addresses));
  REQUIRE(arena.adopt(object(2), addresses));
  arena.free(address);
  arena.object_gone(object(1));
  CHECK(arena.owns(address));
  arena.object_gone(object(2));
  CHECK_FALSE(arena.owns(address));
}

TEST_CASE("memory that is not of the arena, or was freed, can't be sealed") {
  Granter granter;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  std::byte elsewhere{};
  const std::byte* const foreign[] = {&elsewhere};
  CHECK(arena.adopt(object(1), foreign).error().code() == Code::invalid);
  std::byte* const address = arena.allocate(100, 0, no_wait).value();
  arena.free(address);
  const std::byte* const freed[] = {address};
  CHECK(arena.adopt(object(1), freed).error().code() == Code::invalid);
}

TEST_CASE("a full store: own idle segments go back before the arena gives up") {
  Granter granter;
  granter.budget = 4 << 20;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  std::vector<std::byte*> kept;
  for (int i = 0; i < 3; ++i) kept.push_back(arena.allocate(1 << 20, 0, no_wait).value());
  for (auto* address : kept) arena.free(address);
  REQUIRE(granter.granted.size() == 3);
  // Three segments are idle, and there is less room than needed unless they go back.
  auto large = arena.allocate(3 << 20, 0, no_wait);
  REQUIRE(large);
  CHECK(granter.granted.size() == 1);
  CHECK(arena.allocate(3 << 20, 0, no_wait).error().code() == Code::out_of_memory);
}

TEST_CASE("a loop of equal steps asks for no segment after its first round") {
  Granter granter;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  std::uint64_t number = 0;
  const auto step = [&] {
    std::vector<std::byte*> arrays;
    for (const std::uint64_t bytes : {700000UL, 300000UL, 64UL, 5000UL})
      arrays.push_back(arena.allocate(bytes, 0, no_wait).value());
    const std::vector<const std::byte*> addresses(arrays.begin(), arrays.end());
    REQUIRE(arena.adopt(object(++number), addresses));
    for (auto* address : arrays) arena.free(address);
    arena.object_gone(object(number));
  };
  step();
  const auto asked = granter.asked.size();
  for (int i = 0; i < 1000; ++i) step();
  CHECK(granter.asked.size() == asked);
}

TEST_CASE("free segments are kept for the next arrays, up to a limit, and the oldest go back first") {
  Granter granter;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  std::vector<std::byte*> arrays;
  for (int i = 0; i < 12; ++i) arrays.push_back(arena.allocate(1 << 20, 0, no_wait).value());
  for (auto* address : arrays) arena.free(address);
  CHECK(granter.granted.size() == kept_bytes >> 20);
  arrays.clear();
  for (std::size_t i = 0; i < kept_bytes >> 20; ++i) arrays.push_back(arena.allocate(1 << 20, 0, no_wait).value());
  CHECK(granter.asked.size() == 12);
  for (auto* address : arrays) arena.free(address);
}

TEST_CASE("while others wait for memory only a little free memory is kept") {
  Granter granter;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  auto* small = arena.allocate(1000, 0, no_wait).value();
  auto* large = arena.allocate(2 << 20, 0, no_wait).value();
  auto* larger = arena.allocate(3 << 20, 0, no_wait).value();
  arena.free(large);
  REQUIRE(granter.granted.size() == 3);
  granter.wanted = true;
  arena.free(larger);
  CHECK(granter.granted.size() == 1);
  arena.free(small);
  CHECK(granter.granted.size() == 1);
  // It must ask again for segments that it had, so that the clients that wait have their turn.
  const auto asked = granter.asked.size();
  arena.allocate(2 << 20, 0, no_wait).value();
  CHECK(granter.asked.size() == asked + 1);
}

TEST_CASE("trim gives back all wholly free segments") {
  Granter granter;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  auto* first = arena.allocate(900 << 10, 0, no_wait).value();
  auto* second = arena.allocate(900 << 10, 0, no_wait).value();
  arena.free(first);
  arena.trim();
  CHECK(granter.granted.size() == 1);
  arena.free(second);
  arena.trim();
  CHECK(granter.granted.empty());
}

TEST_CASE("a hard segment goes back when its object is gone") {
  Granter granter;
  Arena arena(granter.mutex, granter.source(), kept_bytes);
  granter.granted.emplace(77, 4096);
  arena.adopt_hard(object(1), {77});
  arena.object_gone(object(1));
  CHECK(granter.granted.empty());
}

// Regions carry a pattern while they live and poison after that, as sanitizers can't watch recycled shared memory.
struct Model {
  struct Region {
    std::byte* address;
    std::uint64_t bytes;
    unsigned char pattern;
    bool local = true;
    std::set<std::uint64_t> objects;
  };
  Granter granter;
  Arena arena{granter.mutex, granter.source(), kept_bytes};
  std::vector<Region> regions;
  std::map<std::uint64_t, int> objects;  ///< how many regions each object has
  std::mt19937 random;
  std::uint64_t last_object = 0;

  explicit Model(unsigned seed) : random(seed) {}
  std::uint64_t below(std::uint64_t bound) { return random() % bound; }

  void allocate() {
    const std::uint64_t bytes = 1 + below(below(4) == 0 ? 400'000 : 3000);
    auto made = arena.allocate(bytes, 0, no_wait);
    if (!made) return;
    regions.push_back({*made, bytes, static_cast<unsigned char>(1 + below(200)), true, {}});
    std::memset(*made, regions.back().pattern, bytes);
  }
  void seal() {
    std::vector<const std::byte*> addresses;
    const auto id = ++last_object;
    for (auto& region : regions)
      if (region.local && below(4) == 0) {
        addresses.push_back(region.address + below(region.bytes));
        region.objects.insert(id);
      }
    if (addresses.empty()) return;
    REQUIRE(arena.adopt(object(id), addresses));
    objects[id] = static_cast<int>(addresses.size());
  }
  void drop_local() {
    for (auto& region : regions)
      if (region.local && below(5) == 0) {
        region.local = false;
        if (region.objects.empty()) std::memset(region.address, 0xdd, region.bytes);
        arena.free(region.address);
      }
  }
  void end_objects() {
    for (auto it = objects.begin(); it != objects.end();) {
      if (below(4) != 0) {
        ++it;
        continue;
      }
      for (auto& region : regions)
        if (region.objects.erase(it->first) > 0 && region.objects.empty() && !region.local)
          std::memset(region.address, 0xdd, region.bytes);
      arena.object_gone(object(it->first));
      it = objects.erase(it);
    }
  }
  void check() {
    std::erase_if(regions, [](const Region& region) { return !region.local && region.objects.empty(); });
    for (const auto& region : regions) {
      REQUIRE(arena.owns(region.address));
      for (std::uint64_t i = 0; i < region.bytes; i += 1 + region.bytes / 16)
        REQUIRE(region.address[i] == std::byte{region.pattern});
      REQUIRE(region.address[region.bytes - 1] == std::byte{region.pattern});
    }
  }
};

TEST_CASE("no live region ever changes, whatever the order in which arrays and objects end") {
  const unsigned seed = GENERATE(range(0U, 20U));
  Model model(seed);
  for (int step = 0; step < 300; ++step) {
    switch (model.below(5)) {
      case 0:
      case 1: model.allocate(); break;
      case 2: model.seal(); break;
      case 3: model.drop_local(); break;
      default: model.end_objects();
    }
    model.check();
  }
  for (auto& region : model.regions)
    if (region.local) model.arena.free(region.address);
  for (const auto& [id, count] : model.objects) model.arena.object_gone(object(id));
  CHECK(model.arena.allocated_bytes() == 0);
  model.arena.trim();
  CHECK(model.granter.granted.size() <= 4);  // a few small segments are kept
}

}  // namespace
