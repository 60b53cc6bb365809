// Compares the allocator of regions with a model: no two regions share a byte, large ones share no page, free space
// joins up again, and the region freed last is used first.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>
#include <muster/ipc/region_allocator.hpp>

#include "random.hpp"

namespace muster::ipc {
namespace {

using test::Random;
using Region = RegionAllocator::Region;
using Use = RegionAllocator::Use;
constexpr std::uint64_t mib = 1 << 20;
constexpr auto large = RegionAllocator::large_bytes_min;

/// What must hold for each region, and for all together.
class Model {
 public:
  Model(std::map<std::uint32_t, std::uint64_t> segments, std::set<std::uint32_t> own)
      : segments_(std::move(segments)), own_(std::move(own)) {}

  void allocated(const Region& region, std::uint64_t wanted) {
    REQUIRE(region.bytes >= wanted);
    REQUIRE(region.offset % RegionAllocator::alignment_bytes == 0);
    if (own_.contains(region.segment.value)) {
      REQUIRE((region.offset == 0 && region.bytes == segments_[region.segment.value]));
      REQUIRE((wanted >= mib && region.bytes <= 2 * wanted + (64 << 10)));
    } else if (wanted >= large)
      REQUIRE((wanted < mib && region.offset % page_bytes == 0 &&
               region.bytes == (wanted + page_bytes - 1) / page_bytes * page_bytes));
    REQUIRE(segments_.contains(region.segment.value));
    REQUIRE(region.offset + region.bytes <= segments_[region.segment.value]);
    auto& regions = regions_[region.segment.value];
    const auto next = regions.lower_bound(region.offset);
    if (next != regions.end()) REQUIRE(region.offset + region.bytes <= next->first);
    if (next != regions.begin()) REQUIRE(std::prev(next)->first + std::prev(next)->second <= region.offset);
    regions.emplace(region.offset, region.bytes);
    bytes_ += region.bytes;
    all_.push_back(region);
  }
  Region remove(std::size_t index) {
    std::swap(all_[index], all_.back());
    const auto region = all_.back();
    all_.pop_back();
    regions_[region.segment.value].erase(region.offset);
    bytes_ -= region.bytes;
    return region;
  }
  [[nodiscard]] const std::vector<Region>& all() const { return all_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  [[nodiscard]] bool is_free(std::uint32_t segment) const {
    const auto found = regions_.find(segment);
    return found == regions_.end() || found->second.empty();
  }
  /// Returns the region that contains the offset.
  [[nodiscard]] std::optional<Region> find(std::uint32_t segment, std::uint64_t offset) const {
    for (const auto& region : all_)
      if (region.segment.value == segment && offset >= region.offset && offset < region.offset + region.bytes)
        return region;
    return std::nullopt;
  }

 private:
  std::map<std::uint32_t, std::uint64_t> segments_;
  std::set<std::uint32_t> own_;
  std::map<std::uint32_t, std::map<std::uint64_t, std::uint64_t>> regions_;
  std::vector<Region> all_;
  std::uint64_t bytes_ = 0;
};

std::uint64_t random_bytes(Random& random) {
  switch (random.between(0, 4)) {
    case 0: return random.between(1, 1024);
    case 1: return random.between(1, large + page_bytes);
    case 2: return std::uint64_t{1} << random.between(0, 20);
    case 3: return random.chance(0.1) ? random.between(mib, 3 * mib) : large;
    default: return random.between(1, 300'000);
  }
}

TEST_CASE("random allocations and frees: no overlap, aligned, found, and all back at the end") {
  const auto seed = GENERATE(range(0u, 40u));
  CAPTURE(seed);
  Random random(seed);
  const std::map<std::uint32_t, std::uint64_t> segments{{1, 2 * mib}, {2, 4 * mib + 12'345}, {3, 100'000},
                                                        {4, mib},     {5, 3 * mib / 2},      {9, 16 * mib}};
  const std::set<std::uint32_t> own{4, 5};
  RegionAllocator allocator;
  for (const auto& [id, bytes] : segments)
    allocator.add_segment({id}, bytes, own.contains(id) ? Use::own : Use::shared);
  Model model(segments, own);
  int refused = 0;
  double fill = 0.6;
  for (int step = 0; step < 4000; ++step) {
    if (step % 500 == 0) fill = random.chance(0.5) ? 0.7 : 0.35;
    if (model.all().empty() || random.chance(fill)) {
      const auto wanted = random_bytes(random);
      if (const auto region = allocator.allocate(wanted)) model.allocated(*region, wanted);
      else ++refused;
    } else {
      const auto region = model.remove(random.between(0, model.all().size() - 1));
      allocator.free(region.segment, region.offset);
    }
    REQUIRE(allocator.allocated_bytes() == model.bytes());
    if (step % 20 == 0) {
      const auto segment = static_cast<std::uint32_t>(random.between(1, 3));
      const auto offset = random.between(0, 5 * mib);
      const auto expected = model.find(segment, offset);
      const auto found = allocator.find({segment}, offset);
      REQUIRE(found.has_value() == expected.has_value());
      if (found) REQUIRE((found->offset == expected->offset && found->bytes == expected->bytes));
    }
  }
  const auto free = allocator.free_segments();
  for (const auto& [id, bytes] : segments)
    REQUIRE((std::count(free.begin(), free.end(), SegmentId{id}) == 1) == model.is_free(id));

  while (!model.all().empty()) {
    const auto region = model.remove(random.between(0, model.all().size() - 1));
    allocator.free(region.segment, region.offset);
  }
  REQUIRE(allocator.allocated_bytes() == 0);
  REQUIRE(allocator.free_segments().size() == segments.size());
  REQUIRE(allocator.wholly_free_bytes() == allocator.segment_bytes());
  // All space is whole again: as many of the largest regions fit as ever could.
  constexpr std::uint64_t largest = mib - page_bytes;
  std::uint64_t fit = 0;
  for (const auto& [id, bytes] : segments) fit += own.contains(id) ? 0 : bytes / largest;
  std::vector<Region> taken;
  const auto take_all = [&] {
    taken.clear();
    while (const auto region = allocator.allocate(largest)) taken.push_back(*region);
  };
  take_all();  // also frees the slabs that are kept empty
  for (const auto& region : taken) allocator.free(region.segment, region.offset);
  take_all();
  REQUIRE(taken.size() == fit);
  for (const std::uint64_t bytes : {mib, 3 * mib / 2}) REQUIRE(allocator.allocate(bytes)->bytes == bytes);
}

/// Adds segments until there is room, like a client without room.
Region allocate_somehow(RegionAllocator& allocator, std::uint64_t bytes, std::uint32_t& segments) {
  if (const auto region = allocator.allocate(bytes)) return *region;
  return allocator.allocate_with({++segments}, allocator.wanted(bytes), bytes);
}

TEST_CASE("shared segments begin small and grow with the memory in use") {
  RegionAllocator allocator;
  std::uint32_t segments = 0;
  std::uint64_t allocated = 0;
  for (int i = 0; i < 100'000; ++i) {
    REQUIRE(allocator.wanted(1000) <= std::max<std::uint64_t>(64 << 10, allocator.segment_bytes() / 32 + (64 << 10)));
    allocated += allocate_somehow(allocator, 1000, segments).bytes;
  }
  REQUIRE(segments < 200);
  REQUIRE(allocator.segment_bytes() < allocated + allocated / 4);
}

TEST_CASE("large regions have segments of their own, as long as they are few") {
  RegionAllocator allocator;
  std::uint32_t segments = 0;
  const auto bytes = GENERATE(std::uint64_t{mib}, std::uint64_t{3 * mib + 5}, std::uint64_t{40 * mib});
  for (std::uint64_t i = 1; i <= 2000; ++i) {
    const auto region = allocate_somehow(allocator, bytes, segments);
    if (segments < 100) REQUIRE((region.offset == 0 && region.bytes <= bytes + bytes / 4));
    REQUIRE(allocator.segment_bytes() <= i * (bytes + bytes / 4));
  }
  REQUIRE(segments < 500);
}

TEST_CASE("if only few segments are allowed, they are larger") {
  const auto about = GENERATE(std::uint64_t{1}, std::uint64_t{8}, std::uint64_t{31});
  RegionAllocator allocator(about);
  Random random(5);
  std::uint32_t segments = 0;
  std::uint64_t allocated = 0;
  while (allocated < 2048 * mib) allocated += allocate_somehow(allocator, random_bytes(random) * 8, segments).bytes;
  REQUIRE(segments <= 6 * about + 12);
}

TEST_CASE("both the smallest and the wanted segment for a region of any size have room for it") {
  Random random(3);
  RegionAllocator allocator;
  std::uint32_t segments = 0;
  std::vector<Region> regions;
  for (int i = 0; i < 5000; ++i) {
    const auto bytes = random_bytes(random) * (random.chance(0.1) ? 20 : 1);
    REQUIRE(allocator.least(bytes) <= allocator.wanted(bytes));
    if (const auto region = allocator.allocate(bytes)) regions.push_back(*region);
    else if (random.chance(0.5))
      regions.push_back(allocator.allocate_with({++segments}, allocator.least(bytes), bytes));
    else regions.push_back(allocator.allocate_with({++segments}, allocator.wanted(bytes), bytes));
    REQUIRE(regions.back().bytes >= bytes);
    while (regions.size() > 1000 || (!regions.empty() && random.chance(0.4))) {
      std::swap(regions[random.between(0, regions.size() - 1)], regions.back());
      allocator.free(regions.back().segment, regions.back().offset);
      regions.pop_back();
    }
  }
}

TEST_CASE("a segment for one region is used again for a region of at least half its size, never for less") {
  RegionAllocator allocator;
  allocator.add_segment({1}, 8 * mib, Use::own);
  REQUIRE_FALSE(allocator.allocate(1000));
  REQUIRE_FALSE(allocator.allocate(3 * mib));
  const auto region = allocator.allocate(5 * mib);
  REQUIRE(region);
  REQUIRE(allocator.find({1}, 7 * mib)->bytes == 8 * mib);
  REQUIRE_FALSE(allocator.allocate(5 * mib));
  allocator.free({1}, region->offset);
  REQUIRE_FALSE(allocator.find({1}, 0));
  REQUIRE(allocator.free_segments() == std::vector<SegmentId>{{1}});
  allocator.remove_segment({1});
}

TEST_CASE("every size up to a few pages fits its region, and wastes at most a fifth") {
  RegionAllocator allocator;
  allocator.add_segment({1}, 64 * mib);
  for (std::uint64_t bytes = 1; bytes <= large + 2 * page_bytes; ++bytes) {
    const auto region = allocator.allocate(bytes);
    REQUIRE(region);
    REQUIRE(region->bytes >= bytes);
    if (bytes >= 1024) REQUIRE(region->bytes - bytes <= region->bytes / 5);
    else REQUIRE(region->bytes - bytes < RegionAllocator::alignment_bytes);
    allocator.free(region->segment, region->offset);
  }
  REQUIRE(allocator.allocated_bytes() == 0);
}

TEST_CASE("the region freed last is used first, small or large") {
  const auto bytes = GENERATE(std::uint64_t{100}, std::uint64_t{5000}, std::uint64_t{mib / 2});
  RegionAllocator allocator;
  allocator.add_segment({1}, 64 * mib);
  std::vector<Region> regions;
  for (int i = 0; i < 8; ++i) regions.push_back(*allocator.allocate(bytes));
  allocator.free({1}, regions[1].offset);
  allocator.free({1}, regions[5].offset);
  allocator.free({1}, regions[3].offset);
  REQUIRE(allocator.allocate(bytes)->offset == regions[3].offset);
  REQUIRE(allocator.allocate(bytes)->offset == regions[5].offset);
  REQUIRE(allocator.allocate(bytes)->offset == regions[1].offset);
}

TEST_CASE("steady state touches the same bytes again and again") {
  Random random(11);
  RegionAllocator allocator;
  allocator.add_segment({1}, 64 * mib);
  allocator.add_segment({2}, 64 * mib);
  std::vector<std::uint64_t> sizes;
  for (int i = 0; i < 50; ++i) sizes.push_back(random_bytes(random) % mib + 1);
  std::set<std::pair<std::uint32_t, std::uint64_t>> seen;
  std::size_t after_two_rounds = 0;
  for (int round = 0; round < 20; ++round) {
    std::vector<Region> regions;
    for (const auto bytes : sizes) regions.push_back(*allocator.allocate(bytes));
    for (const auto& region : regions) {
      seen.emplace(region.segment.value, region.offset);
      allocator.free(region.segment, region.offset);
    }
    if (round == 1) after_two_rounds = seen.size();
  }
  REQUIRE(seen.size() == after_two_rounds);
}

TEST_CASE("a large region gets the best fit, and a segment in use is preferred to a wholly free one") {
  RegionAllocator allocator;
  constexpr std::uint64_t kib = 1 << 10;
  allocator.add_segment({1}, 4 * mib);
  allocator.add_segment({2}, 512 * kib);
  const auto first = *allocator.allocate(768 * kib);
  REQUIRE(first.segment == SegmentId{1});
  REQUIRE(allocator.allocate(256 * kib)->segment == SegmentId{1});
  allocator.free({1}, first.offset);
  REQUIRE(allocator.allocate(512 * kib)->offset == first.offset);  // not from the 3 MiB behind it
  REQUIRE(allocator.free_segments() == std::vector<SegmentId>{{2}});
}

TEST_CASE("a segment without room for a slab still gives small regions, page by page") {
  RegionAllocator allocator;
  allocator.add_segment({1}, 2 * page_bytes);
  REQUIRE(allocator.allocate(10));
  REQUIRE(allocator.allocate(5000) == std::nullopt);
  REQUIRE(allocator.allocate(10));
  REQUIRE_FALSE(allocator.allocate(1));
}

TEST_CASE("the empty slab that is kept gives way to a large region, and to the segment's removal") {
  RegionAllocator allocator;
  allocator.add_segment({1}, mib);
  const auto small = *allocator.allocate(64);
  allocator.free({1}, small.offset);
  constexpr std::uint64_t most = mib - page_bytes;
  const auto whole = allocator.allocate(most);
  REQUIRE(whole);
  allocator.free({1}, whole->offset);
  allocator.free({1}, allocator.allocate(64)->offset);
  allocator.remove_segment({1});
  REQUIRE(allocator.segment_bytes() == 0);
  REQUIRE_FALSE(allocator.allocate(1));
  allocator.add_segment({1}, mib);
  REQUIRE(allocator.allocate(most));
}

TEST_CASE("nothing is found where nothing is allocated") {
  RegionAllocator allocator;
  allocator.add_segment({1}, mib);
  const auto small = *allocator.allocate(100);
  REQUIRE(allocator.find({1}, small.offset + 127)->offset == small.offset);
  REQUIRE_FALSE(allocator.find({1}, small.offset + 128));
  REQUIRE_FALSE(allocator.find({1}, 900'000));
  REQUIRE_FALSE(allocator.find({1}, ~std::uint64_t{0}));
  REQUIRE_FALSE(allocator.find({2}, 0));
}

TEST_CASE("sizes that no segment can hold are refused without a wrap-around") {
  RegionAllocator allocator;
  REQUIRE_FALSE(allocator.allocate(1));
  allocator.add_segment({1}, mib);
  REQUIRE_FALSE(allocator.allocate(mib + 1));
  REQUIRE_FALSE(allocator.allocate(~std::uint64_t{0}));
  REQUIRE_FALSE(allocator.allocate(~std::uint64_t{0} - page_bytes));
}

/// Returns the signal that ends a child process which does this.
int signal_of(void (*misuse)(RegionAllocator&, const Region& small, const Region& large)) {
  const auto child = fork();
  if (child == 0) {
    close(STDERR_FILENO);
    const struct rlimit no_core {};
    setrlimit(RLIMIT_CORE, &no_core);
    RegionAllocator allocator;
    allocator.add_segment({1}, mib);
    const auto small = *allocator.allocate(100);
    const auto pages = *allocator.allocate(large);
    std::signal(SIGABRT, SIG_DFL);
    misuse(allocator, small, pages);
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

TEST_CASE("misuse ends the process rather than hand memory out twice") {
  using Allocator = RegionAllocator;
  REQUIRE(signal_of([](Allocator& a, const Region& s, const Region& l) {
            a.free({1}, s.offset), a.free({1}, l.offset);
          }) == 0);
  REQUIRE(signal_of([](Allocator& a, const Region& s, const Region&) {
            a.free({1}, s.offset), a.free({1}, s.offset);
          }) == SIGABRT);
  REQUIRE(signal_of([](Allocator& a, const Region&, const Region& l) {
            a.free({1}, l.offset), a.free({1}, l.offset);
          }) == SIGABRT);
  REQUIRE(signal_of([](Allocator& a, const Region& s, const Region&) { a.free({1}, s.offset + 64); }) == SIGABRT);
  REQUIRE(signal_of([](Allocator& a, const Region&, const Region& l) { a.free({1}, l.offset + page_bytes); }) ==
          SIGABRT);
  REQUIRE(signal_of([](Allocator& a, const Region& s, const Region&) { a.free({2}, s.offset); }) == SIGABRT);
  REQUIRE(signal_of([](Allocator& a, const Region&, const Region&) { a.remove_segment({1}); }) == SIGABRT);
  REQUIRE(signal_of([](Allocator& a, const Region&, const Region&) { a.add_segment({1}, mib); }) == SIGABRT);
}

}  // namespace
}  // namespace muster::ipc
