// Several clients use one node in any order, and the invariants are checked after each step: see tests/walk.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "reach.hpp"
#include "walk/walk.hpp"

using namespace musterd::testing;

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t size_max,
                                               unsigned seed) {
  return mutate_choices(data, size, size_max, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static ReachedAtExit reached;
  if (const auto broken = run_walk({data, size}, reached); !broken.empty()) {
    std::fprintf(stderr, "%s\n", broken.c_str());
    std::abort();
  }
  return 0;
}
