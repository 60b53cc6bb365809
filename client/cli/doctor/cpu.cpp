// The cores that this process may use, and the vector instructions that reductions have code for.
#include <sched.h>
#include <unistd.h>

#include <fmt/format.h>

#include <muster/ipc/cgroup.hpp>

#include "check.hpp"

namespace muster::cli {

namespace {

Check cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  ::sched_getaffinity(0, sizeof allowed, &allowed);
  const int usable = CPU_COUNT(&allowed);
  const long online = ::sysconf(_SC_NPROCESSORS_ONLN);
  std::string found = fmt::format("{} of {} allowed", usable, online);
  const auto quota = ipc::cgroup_cores();
  if (quota) found += fmt::format(", cgroup quota {:.1f}", *quota);
  if (usable >= 2 && quota.value_or(2) >= 2) return {"cores", Health::ok, found, {}};
  return {"cores", Health::warn, found + ": daemon and ranks take turns on one", "allow at least 2 (taskset, cpu.max)"};
}

Check vector_instructions() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bw") != 0) return {"vector instructions", Health::ok, "AVX-512", {}};
  if (__builtin_cpu_supports("avx2") != 0) return {"vector instructions", Health::ok, "AVX2", {}};
  return {"vector instructions", Health::warn, "SSE2 only: reductions are slower",
          "a CPU with AVX2; in a virtual machine, pass the host's CPU model through"};
#elif defined(__aarch64__)
  return {"vector instructions", Health::ok, "NEON", {}};
#else
  return {"vector instructions", Health::warn, "none that the reduction has code for: it runs in plain C++",
          "x86-64 and arm64 have such code"};
#endif
}

}  // namespace

std::vector<Check> check_cpu() { return {cores(), vector_instructions()}; }

}  // namespace muster::cli
