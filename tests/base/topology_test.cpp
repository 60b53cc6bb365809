// How many cores the daemon may use: those that it is bound to.
#include <catch2/catch.hpp>

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "base/topology.hpp"

namespace {

using musterd::Topology;

TEST_CASE("a process has at least one core, and no more than it is bound to") {
  const Topology all;
  CHECK(all.cores() >= 1);
  CHECK(all.nodes() >= 1);
  const pid_t child = ::fork();
  if (child == 0) {
    cpu_set_t allowed;
    ::sched_getaffinity(0, sizeof allowed, &allowed);
    std::size_t first = 0;
    while (!CPU_ISSET(first, &allowed)) ++first;
    CPU_ZERO(&allowed);
    CPU_SET(first, &allowed);
    ::sched_setaffinity(0, sizeof allowed, &allowed);
    ::_exit(Topology().cores() == 1 ? 0 : 1);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE("a thread may be kept on any node by its number") {
  const Topology topology;
  for (unsigned node = 0; node < 4; ++node) std::thread([&] { topology.stay_on_node(node); }).join();
}

}  // namespace
