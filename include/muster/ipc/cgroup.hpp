// The limits of the control group that this process is in, versions 1 and 2. A limit of any ancestor applies, too, so
// these functions walk up to the root.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace muster::ipc {

struct CgroupMemory {
  std::string path;                          ///< the group's folder
  std::optional<std::uint64_t> limit_bytes;  ///< the tightest limit from here to the root; nothing: unlimited
  std::uint64_t used_bytes = 0;
  std::uint64_t oom_kills = 0;  ///< processes of the group that the kernel killed for lack of memory
};

/// Where the kernel's files are; tests use other folders.
struct CgroupFiles {
  std::string root = "/sys/fs/cgroup";
  std::string own = "/proc/self/cgroup";
};

/// Nothing if there are no memory control groups.
[[nodiscard]] std::optional<CgroupMemory> cgroup_memory(const CgroupFiles& files = {});

/// How many cores' worth of time the tightest quota grants; nothing if there is no quota.
[[nodiscard]] std::optional<double> cgroup_cores(const CgroupFiles& files = {});

/// The machine's memory, or what the control group may have if that is less.
[[nodiscard]] std::uint64_t usable_memory_bytes();

}  // namespace muster::ipc
