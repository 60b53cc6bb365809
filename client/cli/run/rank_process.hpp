// Starts one rank: a process in its own process group, with its streams in pipes, that dies with its starter.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/result.hpp>

namespace muster::cli {

struct RankCommand {
  std::vector<std::string> arguments;    ///< the program, looked up on PATH, and its arguments
  std::vector<std::string> environment;  ///< all of it, NAME=value
  bool takes_stdin = false;              ///< else it reads /dev/null
};

struct RankProcess {
  pid_t pid = 0;   ///< also the number of its process group
  ipc::Fd output;  ///< what it writes to stdout, non-blocking
  ipc::Fd error;   ///< what it writes to stderr, non-blocking
};

/// Invalid if the program can't be executed, saying why.
[[nodiscard]] Result<RankProcess> start_rank(const RankCommand& command);

}  // namespace muster::cli
