// `muster run`: starts n ranks on this node and answers for them.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "supervisor.hpp"

namespace muster::cli {

struct RunOptions {
  int ranks = 1;
  std::string group;                       ///< empty: one of this run's own
  std::string socket;                      ///< empty: the default
  std::string memory;                      ///< of a daemon that is started
  std::chrono::milliseconds grace{5'000};  ///< between SIGTERM and SIGKILL
  OnFailure on_failure = OnFailure::end_all;
  std::vector<std::string> command;
};

/// The exit status: that of the rank that failed first, 0 if none did.
[[nodiscard]] int run(const RunOptions& options);

}  // namespace muster::cli
