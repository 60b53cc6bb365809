// The lines that `muster bench` prints: nccl-tests' table, or a JSON object per size.
#pragma once

#include <string>

#include "bench.hpp"
#include "statistics.hpp"
#include "workload.hpp"

namespace muster::cli {

[[nodiscard]] std::string table_head(const BenchOptions& options);
[[nodiscard]] std::string table_line(const BenchOptions& options, const Workload& workload, const Figures& figures);
[[nodiscard]] std::string json_line(const BenchOptions& options, const Workload& workload, const Figures& figures);

}  // namespace muster::cli
