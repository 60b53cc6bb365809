// The limits of the control group that this process is in, versions 1 and 2. A limit of any ancestor binds too, so the
// way up to the root is walked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace muster::ipc {

struct CgroupMemory {
  std::string path;                          ///< the group's folder
  std::optional<std::uint64_t> limit_bytes;  ///< the tightest limit from here to the root; nothing: unlimited
  std::uint64_t used_bytes = 0;
  std::uint64_t oom_kills = 0;  ///< processes of the group that the kernel killed for want of memory
};

/// Where the kernel says it; elsewhere only in tests.
struct CgroupFiles {
  std::string root = "/sys/fs/cgroup";
  std::string own = "/proc/self/cgroup";
};

/// Nothing where there are no memory control groups.
[[nodiscard]] std::optional<CgroupMemory> cgroup_memory(const CgroupFiles& files = {});

/// Cores' worth of time that the groups grant, by the tightest quota; nothing: there is none.
[[nodiscard]] std::optional<double> cgroup_cores(const CgroupFiles& files = {});

/// Of the machine, or what the group may have where that is less.
[[nodiscard]] std::uint64_t usable_memory_bytes();

}  // namespace muster::ipc
