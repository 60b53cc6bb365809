// The walk of the fuzzer node_fuzz, from fixed seeds, for builds without a fuzzer.
#include <catch2/catch.hpp>

#include "walk/walk.hpp"

using namespace musterd::testing;

TEST_CASE("whatever several clients do in whatever order, a node keeps its promises") {
  constexpr std::uint32_t seeds = 800;
  constexpr std::size_t bytes = 1500;
  Reached reached;
  for (std::uint32_t seed = 1; seed <= seeds; ++seed) {
    INFO("seed " << seed);
    REQUIRE(run_walk(random_bytes(seed, bytes), reached) == "");
  }
}
