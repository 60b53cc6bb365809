#include <muster/ipc/cgroup.hpp>

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <sstream>

#include <muster/ipc/text_file.hpp>

namespace muster::ipc {

namespace {

std::optional<std::uint64_t> number_in(const std::string& path) {
  const auto text = read_text_file(path);
  if (!text) return std::nullopt;
  std::uint64_t number = 0;
  const auto parsed = std::from_chars(text->data(), text->data() + text->size(), number);
  if (parsed.ec != std::errc()) return std::nullopt;  // "max"
  return number;
}

/// The path of our group relative to the hierarchy's root, from lines "id:controllers:path". Version 2 has no
/// controller.
std::string own_path(const std::string& table, const std::string& controller) {
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (controllers.find("," + controller + ",") != std::string::npos) return line.substr(second + 1);
  }
  return "/";
}

/// The folders of our group and of all above it.
struct Groups {
  bool unified = false;
  std::string root;
  std::string own;

  template <class Visit>
  void upwards(Visit visit) const {
    for (std::string at = own; at.size() >= root.size(); at = at.substr(0, at.rfind('/'))) visit(at + "/");
  }
};

/// Nothing if the kernel has no such groups. `file`: a file that each folder has.
std::optional<Groups> groups_of(const CgroupFiles& files, const std::string& controller, const std::string& file,
                                const std::string& file_of_version_1) {
  const auto table = read_text_file(files.own);
  if (!table) return std::nullopt;
  Groups groups;
  groups.unified = read_text_file(files.root + "/cgroup.controllers").has_value();
  groups.root = groups.unified ? files.root : files.root + "/" + controller;
  std::string path = own_path(*table, groups.unified ? "" : controller);
  // In a container the path may be the host's. Then only the root exists, and it is our group's.
  const auto& each_has = groups.unified ? file : file_of_version_1;
  if (path == "/" || !read_text_file(groups.root + path + "/" + each_has)) path.clear();
  groups.own = groups.root + path;
  if (!groups.unified && !read_text_file(groups.own + "/" + each_has)) return std::nullopt;
  return groups;
}

/// Reads a quota, which version 1 has in two files and version 2 in one.
std::optional<double> quota_in(const std::string& folder, bool unified) {
  std::string text;
  if (unified) text = read_text_file(folder + "cpu.max").value_or("");
  else
    text = read_text_file(folder + "cpu.cfs_quota_us").value_or("") + " " +
           read_text_file(folder + "cpu.cfs_period_us").value_or("");
  std::istringstream words(text);
  double quota = 0;
  double period = 0;
  if (!(words >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;  // "max 100000", "-1"
  return quota / period;
}

}  // namespace

std::optional<CgroupMemory> cgroup_memory(const CgroupFiles& files) {
  const auto groups = groups_of(files, "memory", "memory.current", "memory.usage_in_bytes");
  if (!groups) return std::nullopt;
  CgroupMemory found;
  found.path = groups->own;
  found.used_bytes =
      number_in(found.path + (groups->unified ? "/memory.current" : "/memory.usage_in_bytes")).value_or(0);
  const auto events = read_text_file(found.path + (groups->unified ? "/memory.events" : "/memory.oom_control"));
  if (events) found.oom_kills = number_after(*events, "oom_kill").value_or(0);
  groups->upwards([&](const std::string& folder) {
    const auto limit = number_in(folder + (groups->unified ? "memory.max" : "memory.limit_in_bytes"));
    constexpr std::uint64_t unlimited = 1ULL << 60;  // version 1 writes a huge number
    if (limit && *limit < unlimited) found.limit_bytes = std::min(*limit, found.limit_bytes.value_or(unlimited));
  });
  return found;
}

std::optional<double> cgroup_cores(const CgroupFiles& files) {
  const auto groups = groups_of(files, "cpu", "cgroup.controllers", "cpu.cfs_period_us");
  if (!groups) return std::nullopt;
  std::optional<double> cores;
  groups->upwards([&](const std::string& folder) {
    const auto quota = quota_in(folder, groups->unified);
    if (quota) cores = std::min(*quota, cores.value_or(*quota));
  });
  return cores;
}

std::uint64_t usable_memory_bytes() {
  const auto total =
      static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGE_SIZE));
  const auto group = cgroup_memory();
  return group && group->limit_bytes ? std::min(total, *group->limit_bytes) : total;
}

}  // namespace muster::ipc
