// Options of the public calls. Their defaults suit most users.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <muster/types.hpp>

namespace muster {

using Shape = std::vector<std::int64_t>;
using Timeout = std::optional<std::chrono::nanoseconds>;  ///< nothing: the group's, or the op's own deadline

struct ConnectOptions {
  std::string socket;        ///< empty: $MUSTER_SOCKET, else the default path
  bool start_daemon = true;  ///< start a daemon if there is none
  std::string memory;  ///< budget for a daemon that is started, "4GiB"; a running one with another budget is Invalid
  /// How long a daemon that is started keeps the objects of pickled refs; a running one with another lease is Invalid.
  std::optional<std::chrono::milliseconds> pickle_lease;
  std::string name;           ///< shown by `muster status`; empty: the program's name
  std::string daemon_folder;  ///< another folder in which musterd is looked for, before PATH
  std::string daemon_path;    ///< empty: $MUSTER_DAEMON, else beside this library or program, else on PATH
  std::string nccl_wheel;     ///< NCCL's library in this program's Python environment, for a daemon that is started
  std::chrono::milliseconds timeout{20'000};
};

struct JoinOptions {
  int rank = -1;                              ///< -1: from the environment (MUSTER_RANK, RANK, ...)
  int world_size = -1;                        ///< -1: from the environment
  std::chrono::milliseconds timeout{30'000};  ///< deadline of each op without one of its own
  OnLoss on_loss = OnLoss::fail;
  bool open = false;  ///< let other users' processes take seats: they see all results of the group
  /// "64MiB": outcomes of ops with a key are remembered, up to so many bytes of arrays. A rank that calls such an op
  /// again gets what was decided then, as does a process that took its seat. All are forgotten when the epoch ends.
  /// Empty: none is remembered. Not with `open`.
  std::string history = {};
};

/// Options of one collective call.
struct OpOptions {
  Timeout timeout;  ///< the op's deadline; nothing: the group's
  std::string key;  ///< match by equal key instead of by order of call
};

}  // namespace muster
