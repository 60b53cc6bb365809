// How a process ended, and the words for it.
#pragma once

#include <string>

namespace muster::cli {

struct Ending {
  int exit_code = 0;
  int signal = 0;  ///< not 0: killed by it
  [[nodiscard]] bool failed() const { return exit_code != 0 || signal != 0; }
  /// The status as shells report it: 128 + signal for a killed process.
  [[nodiscard]] int status() const { return signal != 0 ? 128 + signal : exit_code; }
};

struct RankEnding {
  int rank = 0;
  Ending ending;
};

/// "exited with code 3", "was ended by SIGKILL (Killed)".
[[nodiscard]] std::string how(const Ending& ending);

}  // namespace muster::cli
