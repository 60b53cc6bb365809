#include <catch2/catch.hpp>

#include "ipc/random.hpp"
#include "store/leaf_index.hpp"
#include "store/world.hpp"

using namespace musterd;
using namespace musterd::testing;

namespace {

ipc::Leaf leaf(std::uint32_t segment, std::uint64_t offset, std::uint64_t bytes) {
  ipc::Leaf leaf;
  leaf.segment = {segment};
  leaf.offset = offset;
  leaf.dtype = muster::DType::uint8;
  leaf.count = bytes;
  return leaf;
}

bool contains(const ipc::Leaf& whole, const ipc::Leaf& part) {
  return whole.segment == part.segment && part.offset >= whole.offset &&
         part.offset + part.bytes() <= whole.offset + whole.bytes();
}

}  // namespace

TEST_CASE("a leaf index finds a leaf that contains a part if and only if there is one") {
  const auto seed = GENERATE(range<std::uint64_t>(1, 200));
  INFO("seed " << seed);
  muster::ipc::test::Random random(seed);
  const auto any = [&](std::uint64_t least) {
    return leaf(static_cast<std::uint32_t>(random.between(1, 3)), random.between(0, 60), random.between(least, 20));
  };
  std::vector<ipc::Leaf> wholes;
  for (std::uint64_t n = random.between(0, 12); n > 0; --n) wholes.push_back(any(0));
  LeafIndex index(wholes);
  for (int i = 0; i < 100; ++i) {
    const auto part = any(1);
    const bool expected =
        std::any_of(wholes.begin(), wholes.end(), [&](const auto& whole) { return contains(whole, part); });
    const auto found = index.find(part);
    REQUIRE(found.has_value() == expected);
    if (found) REQUIRE(contains(wholes[*found], part));
  }
}

TEST_CASE("even in the worst order, parts don't each need a walk over the whole") {
  constexpr std::uint64_t count = 100'000;  // with a walk for each it would be ten thousand million steps
  std::vector<ipc::Leaf> wholes;
  for (std::uint64_t i = 0; i < count; ++i) wholes.push_back(leaf(1, i * 64, 64));
  LeafIndex index(wholes);
  bool all_found = true;
  for (std::uint64_t i = count; i-- > 0;) all_found = all_found && index.find(leaf(1, i * 64 + 1, 63)) == i;
  CHECK(all_found);
  CHECK_FALSE(index.find(leaf(1, 63, 2)));
}
