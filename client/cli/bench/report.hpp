// The lines that `muster bench` prints: nccl-tests' table, or a JSON object per size.
#pragma once

#include <string>

#include "bench.hpp"
#include "statistics.hpp"
#include "workload.hpp"

namespace muster::cli {

[[nodiscard]] std::string table_head(const BenchOptions& options);
[[nodiscard]] std::string table_line(const BenchOptions& options, const Workload& workload, const Figures& figures);
/// `load`: since the first round.
[[nodiscard]] std::string json_line(const BenchOptions& options, const Workload& workload, const Figures& figures,
                                    const Load& load);
/// Says that the machine was busy; empty if it wasn't, or that can't be said.
[[nodiscard]] std::string load_line(const Load& load);

}  // namespace muster::cli
