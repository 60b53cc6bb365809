// `muster doctor`: what this machine offers to Muster, and how to get more of it.
#pragma once

#include <string>

#include "../exit_status.hpp"

namespace muster::cli {

struct DoctorOptions {
  std::string socket;  ///< empty: the default
  bool json = false;
  double timeout_s = 30;   ///< how long the GPUs' driver may take
  std::string nccl_so;     ///< as musterd's option; empty: what the running daemon was started with
  std::string nccl_wheel;  ///< the same
};

/// Returns `failed` only if a check fails; warnings count as ok.
[[nodiscard]] ExitStatus doctor(const DoctorOptions& options);

}  // namespace muster::cli
