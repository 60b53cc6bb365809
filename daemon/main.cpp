// musterd: reads its configuration, takes its socket, serves until it is told to end.
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <exception>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/daemon_options.hpp>
#include <muster/ipc/fd.hpp>
#include <muster/ipc/place.hpp>

#include "base/config.hpp"
#include "base/heap_reserve.hpp"
#include "base/log.hpp"
#include "base/sd_notify.hpp"
#include "base/starter.hpp"
#include "base/topology.hpp"
#include "base/version.hpp"
#include "gpu/nccl_environment.hpp"
#include "gpu/probe.hpp"
#include "gpu/process/find_gpus.hpp"
#include "gpu/worker/worker.hpp"
#include "session/server.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

namespace {

/// Each client costs a handful of descriptors, so this takes all that the system allows.
std::uint64_t raise_descriptor_limit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

/// A segment is a file to the kernel, and one segment may take the whole budget.
Result<void> raise_file_size_limit(std::uint64_t budget) {
  rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_FSIZE, &limit);
  if (limit.rlim_max >= budget) return {};
  return Error(
      Code::quota_exceeded,
      fmt::format("files of this process may have at most {}, and shared memory counts as a file: the budget is {}",
                  muster::ipc::bytes_text(limit.rlim_max), muster::ipc::bytes_text(budget)),
      "raise the limit, ulimit -f unlimited, or give a smaller --memory");
}

std::string huge_pages() {
  std::string mode = "4 KiB pages";
  if (std::FILE* file = std::fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "re")) {
    char line[256] = {};
    if (std::fgets(line, sizeof line, file)) {
      const std::string text = line;
      const auto open = text.find('[');
      const auto close = text.find(']');
      if (open != std::string::npos && close != std::string::npos)
        mode = "transparent for shared memory: " + text.substr(open + 1, close - open - 1);
    }
    std::fclose(file);
  }
  return mode;
}

/// Where the log goes: the daemon's starter may have pointed standard error at a file.
std::string log_target() {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/fd/2", error);
  return !error && path.is_absolute() ? path.string() : "standard error";
}

/// What the daemon may keep in its own memory for its clients. A limit on the process is expected to allow a tenth more
/// than the budget. The daemon needs some of that tenth for itself, and for the holes between what it keeps. Four GiB
/// are several million objects: more than that at a time is a mistake, however large the machine is.
std::uint64_t heap_bytes(std::uint64_t memory) {
  constexpr std::uint64_t own = 4 << 20;
  constexpr std::uint64_t heap_min = 4 << 20;
  constexpr std::uint64_t heap_max = std::uint64_t{4} << 30;
  return std::clamp((memory / 10 - std::min(memory / 10, own)) / 4 * 3, heap_min, heap_max);
}

/// How many mappings of this process are for clients. The rest are the daemon's own: the heap, the stacks of its
/// threads, and what is mapped for a moment only. Examples are address space in which a large segment finds its place,
/// and a segment that ends while it is being populated.
std::uint64_t maps_for_clients(std::uint64_t maps_max) {
  constexpr std::uint64_t own = 8192;
  const std::uint64_t limit = muster::ipc::mappings_max();
  const std::uint64_t all = std::max(limit - std::min(limit, own), limit / 4);
  return maps_max ? std::min(maps_max, all) : all;
}

std::string host_name() {
  utsname names{};
  return ::uname(&names) == 0 ? names.nodename : "";
}

/// What clients may have of this process's descriptors and mappings.
struct SystemShares {
  std::uint64_t descriptors;
  std::uint64_t maps;
};

SystemShares system_shares(const Config& config, std::size_t gpus) {
  // Clients may have what this process doesn't need for its own descriptors and for those that come with a packet.
  constexpr std::uint64_t of_each_worker = 4;
  const std::uint64_t own_descriptors = 16 + of_each_worker * gpus;
  const std::uint64_t limit = raise_descriptor_limit();
  return {limit - std::min(limit / 2, own_descriptors), maps_for_clients(config.maps_max)};
}

Quota quota_of(const Config& config, const SystemShares& shares) {
  Quota quota;
  const std::uint64_t memory = config.memory_bytes ? config.memory_bytes : default_memory_bytes();
  const auto or_all = [](std::uint64_t value, std::uint64_t all) { return value ? std::min(value, all) : all; };
  constexpr std::uint64_t objects_total = std::uint64_t{1} << 24;
  constexpr std::uint64_t slots_total = std::uint64_t{1} << 24;
  constexpr std::uint64_t slots_of_client = 1 << 16;
  constexpr std::uint64_t groups_total = 1 << 14;
  constexpr std::uint64_t groups_of_user = groups_total / 2;
  // One client may have at most half of the heap and of the mappings, and one user three quarters, so that others can
  // go on.
  const std::uint64_t heap = heap_bytes(memory);
  const auto [descriptors, maps] = shares;
  quota.total = {memory, objects_total, descriptors, slots_total, groups_total, heap, maps};
  // Where users have a limit of memory, the same share of the descriptors is their limit.
  quota.per_user = {or_all(config.user_memory_bytes, memory),
                    objects_total,
                    config.user_memory_bytes ? descriptors / 4 * 3 : descriptors,
                    slots_total,
                    groups_of_user,
                    heap / 4 * 3,
                    maps - maps / 4};
  quota.per_client = {or_all(config.client_memory_bytes, memory),
                      config.objects_max,
                      descriptors / 2,
                      slots_of_client,
                      groups_of_user,
                      heap / 2,
                      maps - maps / 2};
  constexpr std::uint64_t reserve_share = 32;
  constexpr std::uint64_t reserve_bytes_max = 128 << 20;
  quota.reserve_bytes = std::min(memory / reserve_share, reserve_bytes_max);
  return quota;
}

/// What the store may have of a GPU with so much memory. A share leaves some for contexts and NCCL, which no budget
/// counts.
std::uint64_t budget_of_gpu(double memory, std::uint64_t total) {
  if (memory > 1) return std::min(total, static_cast<std::uint64_t>(memory));
  constexpr std::uint64_t reserve_share = 8;
  constexpr std::uint64_t reserve_bytes_max = std::uint64_t{2} << 30;
  const std::uint64_t reserve = std::min(total / reserve_share, reserve_bytes_max);
  return std::min(total - reserve, static_cast<std::uint64_t>(static_cast<double>(total) * memory));
}

/// What the store may have of each GPU.
void add_gpus(Quota& quota, const Config& config, std::span<const gpu::GpuFacts> gpus) {
  if (!gpus.empty()) {
    // Each takes some heap and a handle in each worker, and nothing of the store.
    constexpr std::uint64_t in_place_total = 1 << 14;
    quota.total[Resource::in_place] = in_place_total;
    quota.per_user[Resource::in_place] = in_place_total / 4 * 3;
    quota.per_client[Resource::in_place] = in_place_total / 2;
  }
  for (const auto& facts : gpus) {
    const auto bytes = budget_of_gpu(config.gpu_memory, facts.memory_bytes);
    // A user or client who is limited on the host may have the same share of a GPU.
    const auto budget = static_cast<double>(quota.total[Resource::memory]);
    for (auto* amounts : {&quota.total, &quota.per_user, &quota.per_client}) {
      const double share = static_cast<double>((*amounts)[Resource::memory]) / budget;
      (*amounts)[memory_of(facts.device)] = static_cast<std::uint64_t>(static_cast<double>(bytes) * share);
    }
    log_info("{}: {}, budget {} MiB", name(facts.device), facts.name, bytes >> 20);
  }
  // NCCL, which works between GPUs, obeys them.
  if (gpus.size() > 1)
    for (const auto& variable : gpu::nccl_variables()) log_info("NCCL's variable {} is set", variable);
}

std::vector<gpu::GpuFacts> find_gpus(const Config& config, const std::string& program) {
  if (config.gpu_memory <= 0) return {};
  const auto deadline =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::duration<double>(config.gpu_timeout_s));
  std::vector<std::string> probe{"musterd", "--gpu-probe-driver"};
  auto found = gpu::find_gpus(program, probe, deadline);
  for (const auto& why : found.unused) log_warning("{}", why.describe());
  return std::move(found.gpus);
}

/// This program; its workers look for NCCL where it would.
muster::ipc::Program worker_program(const Config& config) {
  muster::ipc::Program program{"/proc/self/exe", {"musterd"}};
  const auto add = [&](const char* flag, const std::string& value) {
    if (!value.empty()) program.arguments.insert(program.arguments.end(), {flag, value});
  };
  add("--nccl-so", config.nccl_so);
  add("--nccl-wheel", config.nccl_wheel);
  return program;
}

ServerSettings server_settings(const Config& config) {
  ServerSettings settings;
  settings.gpu_worker = worker_program(config);
  settings.gpus = find_gpus(config, settings.gpu_worker.path);
  settings.socket = muster::ipc::socket_path(config.socket);
  settings.socket_mode = config.socket_mode;
  settings.clients_max = config.clients_max;
  auto& node = settings.node;
  node.version = version;
  node.socket = settings.socket;
  node.log = log_target();
  node.pid = ::getpid();
  node.host = host_name();
  node.user = ::geteuid();
  if (::getrandom(&node.incarnation, sizeof node.incarnation, 0) != sizeof node.incarnation) node.incarnation = 1;
  const SystemShares shares = system_shares(config, settings.gpus.size());
  node.quota = quota_of(config, shares);
  add_gpus(node.quota, config, settings.gpus);
  for (const auto& facts : settings.gpus) node.gpus.push_back({facts.device, gpu::uuid_of(facts.uuid)});
  // Where descriptors or mappings are few, segments are fewer and larger, so that some tens of clients fit.
  constexpr std::uint64_t clients_about = 32;
  node.segments_about = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(
      std::min(shares.descriptors, shares.maps) / clients_about, 1, muster::ipc::RegionAllocator::most_segments));
  node.in_flight_max = config.in_flight_max;
  node.idle_exit_s = config.idle_exit_s;
  const Topology topology;
  node.lanes = config.lanes ? config.lanes : topology.cores();
  settings.place_lane = [topology](unsigned lane) { topology.stay_on_node(lane); };
  node.huge_pages = huge_pages();
  node.nccl_so = config.nccl_so;
  node.nccl_wheel = config.nccl_wheel;
  node.pickle_lease = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(config.pickle_lease_s));
  settings.ready = [fd = config.ready_fd] {
    sd_notify("READY=1");
    tell_ready(fd);
  };
  return settings;
}

Error served(const std::string& socket) {
  return {Code::invalid, "another musterd serves " + socket,
          fmt::format("use it as it is, end it with: muster stop --socket {}, or choose another --socket", socket)};
}

ExitStatus serve(const Config& config) {
  start_log(config.log_format, config.log_level);
  for (const auto& [given, meant] : muster::ipc::mistyped_variables())
    log_warning("nobody reads the variable {}; did you mean {}?", given, meant);
  constexpr std::size_t heap_reserve_bytes = 4 << 20;
  keep_heap_reserve(heap_reserve_bytes);
  ::signal(SIGPIPE, SIG_IGN);
  // Other processes of this user must not open our descriptors or memory through /proc.
  ::prctl(PR_SET_DUMPABLE, 0);
  const auto fail = [&](const Error& why, ExitStatus status = ExitStatus::failed) {
    tell_failed(config.ready_fd, status, why);
    return status;
  };
  // The answer should not have to wait for a driver. The server asks again, with the socket's lock.
  if (const auto path = muster::ipc::socket_path(config.socket); muster::ipc::is_served(path))
    return fail(served(path), ExitStatus::served);
  const auto settings = server_settings(config);
  if (auto raised = raise_file_size_limit(settings.node.quota.total[0]); !raised) return fail(raised.error());
  auto server = Server::create(settings);
  if (!server) return fail(server.error());
  if (!*server) return fail(served(settings.socket), ExitStatus::served);
  log_info("musterd {} listens on {}, budget {} MiB, {} lanes", version, settings.socket,
           settings.node.quota.total[0] >> 20, settings.node.lanes);
  const auto reason = (*server)->run();
  sd_notify("STOPPING=1");
  log_info("ended: {}", reason);
  return ExitStatus::ok;
}

}  // namespace
}  // namespace musterd

int main(int argc, char** argv) {
  // A write that would make a file too large is an error like others: a log must not end the daemon.
  ::signal(SIGXFSZ, SIG_IGN);
  int ready_fd = -1;
  try {
    auto parsed = musterd::parse_command_line(argc, argv);
    if (const int* code = std::get_if<int>(&parsed)) return *code;
    const auto& config = std::get<musterd::Config>(parsed);
    ready_fd = config.ready_fd;
    if (config.gpu_worker)
      return musterd::gpu::run_worker({*config.gpu_worker, config.gpu_uuid, {config.nccl_so, config.nccl_wheel}});
    if (config.gpu_probe_driver) return musterd::gpu::run_driver_probe();
    if (config.gpu_probe) return musterd::gpu::run_probe({config.nccl_so, config.nccl_wheel});
    return static_cast<int>(musterd::serve(config));
  } catch (const std::exception& error) {
    musterd::tell_failed(ready_fd, musterd::ExitStatus::failed, {muster::Code::failed, error.what()});
    return static_cast<int>(musterd::ExitStatus::failed);
  }
}
