// Starts one rank: a process in its own process group that dies with its starter. The rank's output comes through
// pipes, or through terminals of its own.
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
  bool takes_stdin = false;              ///< if false, it reads /dev/null
  bool takes_terminal = false;           ///< if our output goes to a terminal, the rank gets one, too
};

struct RankStream {
  ipc::Fd fd;  ///< what the rank writes, non-blocking
  bool terminal = false;
};

struct RankProcess {
  pid_t pid = 0;  ///< also the number of the rank's process group
  RankStream output;
  RankStream error;  ///< has no descriptor if both streams go to one terminal, in the order in which they are written
};

/// Returns Invalid with the reason if the program can't be executed.
[[nodiscard]] Result<RankProcess> start_rank(const RankCommand& command);

}  // namespace muster::cli
