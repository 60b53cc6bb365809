// `muster run`: starts n ranks on this node and returns their exit status.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "supervisor.hpp"

namespace muster::cli {

struct RunOptions {
  int ranks = 1;
  std::string group;                       ///< empty: a new name for this run
  std::string socket;                      ///< empty: the default
  std::string memory;                      ///< memory of the daemon, if one has to be started
  std::chrono::milliseconds grace{5'000};  ///< between SIGTERM and SIGKILL
  OnFailure on_failure = OnFailure::end_all;
  std::vector<std::string> command;
};

/// Returns the exit status of the rank that failed first, or 0 if none did.
[[nodiscard]] int run(const RunOptions& options);

}  // namespace muster::cli
