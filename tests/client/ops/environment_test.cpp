// Reads rank and world size from the environment that launchers set.
#include <catch2/catch.hpp>

#include <cstdlib>

#include "ops/environment.hpp"

namespace {

using muster::detail::placement_from_environment;

constexpr const char* variables[] = {"MUSTER_RANK",          "MUSTER_WORLD_SIZE",    "RANK",         "WORLD_SIZE",
                                     "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"};

struct CleanEnvironment {
  CleanEnvironment() { clear(); }
  ~CleanEnvironment() { clear(); }
  static void clear() {
    for (const char* variable : variables) ::unsetenv(variable);
  }
};

TEST_CASE("without a launcher there is no placement") {
  const CleanEnvironment clean;
  CHECK(placement_from_environment().error().message() == "no launcher has set them");
}

TEST_CASE("each launcher is understood, in this order") {
  const CleanEnvironment clean;
  // From the last launcher in the order to the first, so each wins over all that were set before it.
  for (int launcher = 3; launcher >= 0; --launcher) {
    ::setenv(variables[2 * launcher], std::to_string(launcher).c_str(), 1);
    ::setenv(variables[2 * launcher + 1], std::to_string(launcher + 10).c_str(), 1);
    const auto placement = placement_from_environment();
    REQUIRE(placement.ok());
    CHECK(placement->rank == launcher);
    CHECK(placement->world_size == launcher + 10);
  }
}

TEST_CASE("half a placement, or one that is not a number, does not count") {
  const CleanEnvironment clean;
  ::setenv("MUSTER_RANK", "1", 1);
  CHECK(placement_from_environment().error().message() == "MUSTER_RANK=1 is set, but MUSTER_WORLD_SIZE is not");
  ::setenv("MUSTER_WORLD_SIZE", "four", 1);
  CHECK(placement_from_environment().error().message() == "MUSTER_WORLD_SIZE=four is not a whole number");
  ::setenv("SLURM_NTASKS", "", 1);
  CHECK(placement_from_environment().error().message() ==
        "MUSTER_WORLD_SIZE=four is not a whole number; SLURM_NTASKS= is not a whole number");
  ::setenv("RANK", "2", 1);
  ::setenv("WORLD_SIZE", "3", 1);
  CHECK(placement_from_environment()->rank == 2);
}

TEST_CASE("a rank that is out of range is named with its variables") {
  const CleanEnvironment clean;
  ::setenv("RANK", "5", 1);
  ::setenv("WORLD_SIZE", "2", 1);
  CHECK(placement_from_environment().error().message() == "RANK=5 is out of range: WORLD_SIZE=2");
  ::setenv("RANK", "-1", 1);
  CHECK(placement_from_environment().error().message() == "RANK=-1 is out of range: WORLD_SIZE=2");
}

}  // namespace
