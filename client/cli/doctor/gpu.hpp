// What there is of GPUs. `musterd --gpu-probe` looks, in a process of its own, because a driver may hang or crash.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include <muster/ipc/json_reader.hpp>
#include <muster/ipc/run_child.hpp>

#include "check.hpp"

namespace muster::cli {

/// What the probe's document means. A machine without a driver is well: it has no GPU.
[[nodiscard]] std::vector<Check> gpu_checks(const ipc::Json& document);

/// Why the probe gave no document that can be read.
[[nodiscard]] Check probe_failed(const ipc::ChildEnd& end, std::chrono::milliseconds time);

/// Runs the probe with these options of the daemon's, for `time` at most.
[[nodiscard]] std::vector<Check> check_gpu(const std::vector<std::string>& words, std::chrono::milliseconds time);

}  // namespace muster::cli
