// What `muster doctor` reports about a limit that this machine need not have.
#include <catch2/catch.hpp>

#include "doctor/check.hpp"

namespace muster::cli {
namespace {

TEST_CASE("fewer memory mappings than usual give a warning, with the number to set") {
  const auto few = check_mappings(65'529);
  CHECK(few.health == Health::warn);
  CHECK(few.found.find("65529") != std::string::npos);
  CHECK(few.mend.find("vm.max_map_count=65530") != std::string::npos);
  for (const std::uint64_t enough : {std::uint64_t{65'530}, std::uint64_t{1'048'576}}) {
    CHECK(check_mappings(enough).health == Health::ok);
    CHECK(check_mappings(enough).mend.empty());
  }
}

}  // namespace
}  // namespace muster::cli
