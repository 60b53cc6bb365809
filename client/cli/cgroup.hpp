// The memory limits of the control group that this process is in, versions 1 and 2.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace muster::cli {

struct CgroupMemory {
  std::string path;                          ///< the group's folder
  std::optional<std::uint64_t> limit_bytes;  ///< the tightest limit from here to the root; nothing: unlimited
  std::uint64_t used_bytes = 0;
  std::uint64_t oom_kills = 0;  ///< processes of the group that the kernel killed for want of memory
};

/// Nothing where there are no memory control groups.
[[nodiscard]] std::optional<CgroupMemory> cgroup_memory();

/// A small file's text without the last newline; nothing if it can't be read.
[[nodiscard]] std::optional<std::string> read_text_file(const std::string& path);

/// The number after `key` in text of lines "key number" or "key: number kB"; nothing if there is none.
[[nodiscard]] std::optional<std::uint64_t> number_after(const std::string& text, const std::string& key);

}  // namespace muster::cli
