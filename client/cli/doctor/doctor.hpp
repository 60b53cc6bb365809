// `muster doctor`: what this machine offers to Muster, and how to get more of it.
#pragma once

#include <string>

#include "../exit_status.hpp"

namespace muster::cli {

struct DoctorOptions {
  std::string socket;  ///< empty: the default
  bool json = false;
};

/// Returns `failed` only if a check fails; warnings count as ok.
[[nodiscard]] ExitStatus doctor(const DoctorOptions& options);

}  // namespace muster::cli
