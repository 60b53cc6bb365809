// The environment that `muster run` gives to a rank.
#pragma once

#include <string>
#include <vector>

namespace muster::cli {

struct RankPlace {
  int rank = 0;
  int ranks = 1;
  std::string group;
  std::string socket;  ///< empty: MUSTER_SOCKET is not set
  int port = 0;        ///< where rank 0 may serve; 0: there is none
};

/// Returns `inherited` (each entry is NAME=value) with the MUSTER_* variables of this rank, and with those that
/// torchrun sets and `torch.distributed` reads. Also sets two variables that are not set yet: PYTHONUNBUFFERED, so that
/// lines come when they are printed although stdout may be a pipe, and OMP_NUM_THREADS, so that the ranks share the
/// cores.
[[nodiscard]] std::vector<std::string> rank_environment(std::vector<std::string> inherited, const RankPlace& place,
                                                        unsigned cores);
/// Returns a port of 127.0.0.1 on which nobody listens now; 0 if there is none.
[[nodiscard]] int unused_port();
/// How many cores this process, and so its ranks, may use.
[[nodiscard]] unsigned allowed_cores();
/// This process's environment.
[[nodiscard]] std::vector<std::string> own_environment();

}  // namespace muster::cli
