// Memory that the store may take, and the size of its pages.
#include <algorithm>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/cgroup.hpp>
#include <muster/ipc/text_file.hpp>

#include "../text.hpp"
#include "check.hpp"

namespace muster::cli {

namespace {

using ipc::cgroup_memory;
using ipc::number_after;
using ipc::read_text_file;

constexpr double default_share = 0.3;  // of the machine's or the cgroup's memory; musterd's default --memory

std::uint64_t meminfo_bytes(const std::string& key) {
  return number_after(read_text_file("/proc/meminfo").value_or(""), key).value_or(0) * 1024;
}

Check machine_memory() {
  const auto total = meminfo_bytes("MemTotal");
  const auto available = meminfo_bytes("MemAvailable");
  const auto budget = static_cast<std::uint64_t>(static_cast<double>(ipc::usable_memory_bytes()) * default_share);
  const std::string found = fmt::format("{} of {} available; a daemon takes up to {} by default",
                                        ipc::bytes_text(available), ipc::bytes_text(total), ipc::bytes_text(budget));
  if (total == 0) return {"memory", Health::warn, "/proc/meminfo can't be read", "give musterd --memory"};
  if (available >= budget) return {"memory", Health::ok, found, {}};
  return {"memory", Health::warn, found,
          fmt::format("free some, or start the daemon with less: muster start --memory {}MiB",
                      std::max<std::uint64_t>(available >> 21, 64))};
}

Check group_limit() {
  const auto group = cgroup_memory();
  if (!group) return {"memory cgroup", Health::ok, "none", {}};
  if (!group->limit_bytes) return {"memory cgroup", Health::ok, "no limit", {}};
  const std::string found =
      fmt::format("{} of {} used", ipc::bytes_text(group->used_bytes), ipc::bytes_text(*group->limit_bytes));
  if (group->used_bytes < *group->limit_bytes / 10 * 9) return {"memory cgroup", Health::ok, found, {}};
  return {"memory cgroup", Health::warn, found + ": processes in it may soon be killed",
          fmt::format("raise memory.max of {} or end what fills it", group->path)};
}

Check overcommit() {
  const auto mode = read_text_file("/proc/sys/vm/overcommit_memory").value_or("0");
  if (mode != "2") return {"overcommit", Health::ok, "mode " + mode, {}};
  return {"overcommit", Health::warn, "mode 2 (strict): mappings may be refused while memory is free",
          "sysctl vm.overcommit_memory=0"};
}

/// "always within_size [advise] never" -> "advise"
std::string chosen(const std::string& choices) {
  const auto open = choices.find('[');
  const auto close = choices.find(']', open);
  return open == std::string::npos || close == std::string::npos ? "" : choices.substr(open + 1, close - open - 1);
}

Check transparent_huge_pages() {
  const std::string path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
  const auto choices = read_text_file(path);
  if (!choices)
    return {"huge pages for shmem", Health::warn, "this kernel has none: the store uses 4 KiB pages",
            "a kernel with CONFIG_TRANSPARENT_HUGEPAGE makes first touch of large arrays several times faster"};
  const std::string mode = chosen(*choices);
  if (mode != "never" && mode != "deny") return {"huge pages for shmem", Health::ok, mode, {}};
  return {"huge pages for shmem", Health::warn, mode + ": the store uses 4 KiB pages",
          "echo advise | sudo tee " + path};
}

Check reserved_huge_pages() {
  const std::string folder = "/sys/kernel/mm/hugepages/hugepages-2048kB/";
  const auto total = read_text_file(folder + "nr_hugepages");
  const auto unused = read_text_file(folder + "free_hugepages");
  if (!total || !unused) return {"reserved huge pages", Health::ok, "this kernel has none; not needed", {}};
  return {
      "reserved huge pages", Health::ok, fmt::format("{} of {} (2 MiB each) free; not needed", *unused, *total), {}};
}

}  // namespace

std::vector<Check> check_memory() { return {machine_memory(), group_limit(), overcommit()}; }

std::vector<Check> check_huge_pages() { return {transparent_huge_pages(), reserved_huge_pages()}; }

}  // namespace muster::cli
