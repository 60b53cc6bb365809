// What of NCCL's environment a worker sets, and what it leaves as it is.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "environment.hpp"
#include "gpu/nccl_environment.hpp"

using namespace musterd::gpu;
using musterd::gpu::test::Variable;

TEST_CASE("NCCL stays on the loopback and listens for nobody, unless the user says otherwise") {
  const Variable interface("NCCL_SOCKET_IFNAME", "eth0");
  const Variable ras("NCCL_RAS_ENABLE", "1");
  set_nccl_variables();
  CHECK(std::string(std::getenv("NCCL_SOCKET_IFNAME")) == "eth0");
  CHECK(std::string(std::getenv("NCCL_RAS_ENABLE")) == "1");
  ::unsetenv("NCCL_SOCKET_IFNAME");
  ::unsetenv("NCCL_RAS_ENABLE");
  set_nccl_variables();
  CHECK(std::string(std::getenv("NCCL_SOCKET_IFNAME")) == "lo");
  CHECK(std::string(std::getenv("NCCL_RAS_ENABLE")) == "0");
}

TEST_CASE("the variables of NCCL are found in the environment, and no others") {
  const Variable debug("NCCL_DEBUG", "INFO");
  const Variable other("MUSTER_NCCL_SO", "/lib/libnccl.so.2");
  const auto found = nccl_variables();
  CHECK(std::ranges::count(found, "NCCL_DEBUG=INFO") == 1);
  CHECK(std::ranges::none_of(found, [](const auto& each) { return each.starts_with("MUSTER"); }));
}
