// The lines that `muster bench` prints: nccl-tests' table, or a JSON object per size.
#pragma once

#include <string>

#include "bench.hpp"
#include "statistics.hpp"
#include "workload.hpp"

namespace muster::cli {

[[nodiscard]] std::string table_head(const BenchOptions& options);
[[nodiscard]] std::string table_line(const BenchOptions& options, const Workload& workload, const Figures& figures);
/// `load` covers the time since the first round.
[[nodiscard]] std::string json_line(const BenchOptions& options, const Workload& workload, const Figures& figures,
                                    const Load& load);
/// Says that the machine was busy. Empty if it wasn't, or if the kernel can't say.
[[nodiscard]] std::string load_line(const Load& load);

}  // namespace muster::cli
