// What control groups allow, according to the kernel's files: a limit of any ancestor counts.
#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>
#include <string>

#include <muster/ipc/cgroup.hpp>

namespace {

using muster::ipc::cgroup_cores;
using muster::ipc::cgroup_memory;

struct Tree {
  std::filesystem::path path;
  Tree() {
    std::string name = (std::filesystem::temp_directory_path() / "muster-cgroup-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()));
    path = name;
  }
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;
  ~Tree() { std::filesystem::remove_all(path); }
  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((path / name).parent_path());
    std::ofstream(path / name) << text << "\n";
  }
  [[nodiscard]] muster::ipc::CgroupFiles files() const { return {path.string(), (path / "own").string()}; }
};

/// /jobs/one, with the files that each folder of version 2 has.
struct Unified : Tree {
  Unified() {
    write("own", "0::/jobs/one");
    for (const std::string folder : {"", "jobs/", "jobs/one/"}) {
      write(folder + "cgroup.controllers", "cpu memory");
      write(folder + "memory.current", "1000");
      write(folder + "memory.max", "max");
      write(folder + "cpu.max", "max 100000");
    }
  }
};

/// The same of version 1.
struct Separate : Tree {
  Separate() {
    write("own", "5:cpu,cpuacct:/jobs/one\n3:memory:/jobs/one\n0::/");
    for (const std::string folder : {"", "jobs/", "jobs/one/"}) {
      write("memory/" + folder + "memory.usage_in_bytes", "1000");
      write("memory/" + folder + "memory.limit_in_bytes", "9223372036854771712");
      write("cpu/" + folder + "cpu.cfs_quota_us", "-1");
      write("cpu/" + folder + "cpu.cfs_period_us", "100000");
    }
  }
};

}  // namespace

TEST_CASE_METHOD(Unified, "version 2: the tightest limit from a process's group to the root counts") {
  REQUIRE(cgroup_memory(files()));
  CHECK_FALSE(cgroup_memory(files())->limit_bytes);
  CHECK_FALSE(cgroup_cores(files()));
  SECTION("its own") {
    write("jobs/one/memory.max", "5000");
    write("jobs/one/cpu.max", "150000 100000");
  }
  SECTION("its parent's") {
    write("jobs/memory.max", "5000");
    write("jobs/one/memory.max", "7000");
    write("jobs/cpu.max", "150000 100000");
    write("jobs/one/cpu.max", "400000 100000");
  }
  SECTION("the root's limit counts in a container that doesn't see its own group") {
    write("own", "0::/somewhere/else");
    write("memory.max", "5000");
    write("cpu.max", "150000 100000");
  }
  CHECK(cgroup_memory(files())->limit_bytes == 5000);
  CHECK(cgroup_cores(files()) == 1.5);
}

TEST_CASE_METHOD(Separate, "version 1: the tightest limit from a process's group to the root counts") {
  REQUIRE(cgroup_memory(files()));
  CHECK_FALSE(cgroup_memory(files())->limit_bytes);
  CHECK_FALSE(cgroup_cores(files()));
  const std::string folder = GENERATE(std::string(), "jobs/", "jobs/one/");
  write("memory/" + folder + "memory.limit_in_bytes", "5000");
  write("cpu/" + folder + "cpu.cfs_quota_us", "150000");
  write("memory/jobs/one/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3");
  CHECK(cgroup_memory(files())->limit_bytes == 5000);
  CHECK(cgroup_memory(files())->used_bytes == 1000);
  CHECK(cgroup_memory(files())->oom_kills == 3);
  CHECK(cgroup_cores(files()) == 1.5);
}

TEST_CASE_METHOD(Unified, "unexpected text in the files is not a limit") {
  write("jobs/one/cpu.max", "0 0");
  write("jobs/one/memory.max", "none");
  CHECK_FALSE(cgroup_cores(files()));
  CHECK_FALSE(cgroup_memory(files())->limit_bytes);
}

TEST_CASE("where there are no control groups there is no limit") {
  const Tree empty;
  CHECK_FALSE(cgroup_memory(empty.files()));
  CHECK_FALSE(cgroup_cores(empty.files()));
}
