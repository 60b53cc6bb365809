// A rank process of `muster bench`: a plain client of the daemon, as a user's program is.
#pragma once

#include <string>

#include <muster/ipc/fd.hpp>

#include "bench.hpp"

namespace muster::cli {

struct BenchRank {
  int rank = 0;
  std::string group;
};

/// Measures all sizes and reports each through the pipe. Returns the process's exit status.
[[nodiscard]] int bench_rank(const BenchOptions& options, const BenchRank& place, const ipc::Fd& pipe);

/// All sizes of a run: from -b to -e, each -f times the one before.
[[nodiscard]] std::vector<std::uint64_t> bench_sizes(const BenchOptions& options);

}  // namespace muster::cli
