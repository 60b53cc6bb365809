// The daemon's settings. Each comes from its flag, else the environment (MUSTER_*), else the config file (TOML), else
// its default.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include <muster/result.hpp>

#include "base/log.hpp"

namespace musterd {

struct Config {
  std::string socket;  ///< empty: the default path
  unsigned socket_mode = 0600;
  std::uint64_t memory_bytes = 0;       ///< 0: 30 % of the machine's or the cgroup's
  std::uint64_t user_memory_bytes = 0;  ///< 0: all of the memory
  std::uint64_t client_memory_bytes = 0;
  double gpu_timeout_s = 15;              ///< for the probe; less than a client waits for a daemon that it starts
  double gpu_memory = 0.3;                ///< on each GPU: up to 1 a share of its memory, above that bytes; 0: none
  std::uint64_t objects_max = 1'000'000;  ///< of one client
  std::uint64_t maps_max = 0;             ///< of all clients; 0: what the system allows
  std::uint32_t clients_max = 4096;
  std::uint32_t in_flight_max = 1024;  ///< ops of one group and client
  unsigned lanes = 0;                  ///< 0: one for each core the daemon may use
  double idle_exit_s = 0;              ///< 0: never
  double pickle_lease_s = 600;
  std::string nccl_so;            ///< empty: NCCL is looked for
  std::string nccl_wheel;         ///< NCCL in the starter's Python environment; empty if it has none
  bool gpu_probe = false;         ///< tell what there is of GPUs, and end
  bool gpu_probe_driver = false;  ///< the same of the driver only, without NCCL
  std::optional<int> gpu_worker;  ///< work on this GPU for the daemon on descriptor 3
  std::string gpu_uuid;           ///< which GPU that must be; empty: any
  int ready_fd = -1;
  LogFormat log_format = LogFormat::text;
  LogLevel log_level = LogLevel::info;
};

/// Either a config, or the exit code after --help, --version or a usage error (which has been printed).
[[nodiscard]] std::variant<Config, int> parse_command_line(int argc, const char* const* argv);

/// 30 % of the machine's memory, or of the cgroup's limit where that is lower.
[[nodiscard]] std::uint64_t default_memory_bytes();

}  // namespace musterd
