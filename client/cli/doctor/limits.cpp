// Resource limits of processes that this shell starts. A daemon that systemd starts has the limits of its unit.
#include <sys/resource.h>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/fd.hpp>

#include "../text.hpp"
#include "check.hpp"

namespace muster::cli {

namespace {

std::string amount(rlim_t limit, bool bytes) {
  if (limit == RLIM_INFINITY) return "unlimited";
  return bytes ? ipc::bytes_text(limit) : std::to_string(limit);
}

std::string both(const rlimit& limit, bool bytes) {
  return fmt::format("{} (hard limit {})", amount(limit.rlim_cur, bytes), amount(limit.rlim_max, bytes));
}

Check open_files() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  // A client costs the daemon about 4 descriptors, and a segment costs one.
  const Health health = limit.rlim_cur < 128 ? Health::fail : limit.rlim_cur < 1024 ? Health::warn : Health::ok;
  const std::string mend = health == Health::ok ? "" : "ulimit -n 4096, or LimitNOFILE=4096 in the systemd unit";
  return {"open files", health, both(limit, false), mend};
}

Check locked_memory() {
  rlimit limit{};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  return {"locked memory",
          Health::ok,
          both(limit, true) + "; no limit for Muster, as the driver of CUDA pins memory by itself",
          {}};
}

Check address_space() {
  rlimit limit{};
  ::getrlimit(RLIMIT_AS, &limit);
  if (limit.rlim_cur == RLIM_INFINITY) return {"address space", Health::ok, "unlimited", {}};
  return {"address space", Health::warn, both(limit, true) + ": mappings of the store count against it",
          "ulimit -v unlimited"};
}

}  // namespace

/// The daemon needs one mapping for each segment and each client. A client needs one for each segment that it uses.
Check check_mappings(std::uint64_t limit) {
  const std::string found = fmt::format("a process may have {}", limit);
  if (limit >= ipc::usual_mappings_max) return {"memory mappings", Health::ok, found, {}};
  return {
      "memory mappings", Health::warn,
      fmt::format("{}, {} are usual: fewer segments and clients fit", found, ipc::usual_mappings_max),
      fmt::format("sysctl -w vm.max_map_count={}, and the same in a file of /etc/sysctl.d", ipc::usual_mappings_max)};
}

std::vector<Check> check_limits() {
  return {open_files(), locked_memory(), address_space(), check_mappings(ipc::mappings_max())};
}

}  // namespace muster::cli
