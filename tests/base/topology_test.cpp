// How many cores are the daemon's: by what it is bound to, and by a cgroup's quota.
#include <catch2/catch.hpp>

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "base/topology.hpp"

namespace {

using musterd::cpu_quota;
using musterd::Topology;

struct Folder {
  std::filesystem::path path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "muster-cgroup-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()));
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  void write(const char* name, const std::string& text) const { std::ofstream(path / name) << text; }
};

TEST_CASE("a cgroup's CPU quota, in both versions' files") {
  const Folder folder;
  CHECK_FALSE(cpu_quota(folder.path));
  SECTION("version 2") {
    folder.write("cpu.max", "150000 100000\n");
    CHECK(cpu_quota(folder.path) == 1.5);
  }
  SECTION("version 2 without a limit") {
    folder.write("cpu.max", "max 100000\n");
    CHECK_FALSE(cpu_quota(folder.path));
  }
  SECTION("version 1") {
    folder.write("cpu.cfs_quota_us", "400000\n");
    folder.write("cpu.cfs_period_us", "100000\n");
    CHECK(cpu_quota(folder.path) == 4);
  }
  SECTION("version 1 without a limit") {
    folder.write("cpu.cfs_quota_us", "-1\n");
    folder.write("cpu.cfs_period_us", "100000\n");
    CHECK_FALSE(cpu_quota(folder.path));
  }
  SECTION("nonsense") {
    folder.write("cpu.max", "0 0\n");
    CHECK_FALSE(cpu_quota(folder.path));
  }
}

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
