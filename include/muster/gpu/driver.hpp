// The CUDA driver: a table of the calls that we make, filled from libcuda.so.1 at run time.
// Opening it makes no context and starts nothing; the first call must be init().
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <muster/gpu/driver_calls.hpp>
#include <muster/gpu/library.hpp>

namespace muster::gpu {

/// CUDA 13.0, which comes with driver 580. Every call of the table is older (11.4 at most), but the kernels are
/// compiled by a toolkit 13: older drivers load neither its machine code nor its PTX.
inline constexpr int driver_version_min = 13000;

namespace cuda {

/// As nvidia-smi prints it: "GPU-5d3f..."
[[nodiscard]] std::string text_of(const Uuid& uuid);
/// Whether the context is as good as before after a call that returned this. If not, every later call of the process
/// fails, too.
[[nodiscard]] bool leaves_context(Status status);

/// All members are set in a table that open_driver() returned.
struct Driver {
#define MUSTER_MEMBER(member, name, symbol, since, ...) std::add_pointer_t<__VA_ARGS__> member = nullptr;
  MUSTER_DRIVER_CALLS(MUSTER_MEMBER)
#undef MUSTER_MEMBER
  int version = 0;   ///< 13000 is CUDA 13.0
  std::string path;  ///< of the library

  /// "CUDA_ERROR_NO_DEVICE (100): no CUDA-capable device is detected"
  [[nodiscard]] std::string describe(Status status) const;
  [[nodiscard]] std::string name_of(Status status) const;
};

}  // namespace cuda

struct OpenedDriver {
  Search search;
  std::unique_ptr<cuda::Driver> driver;  ///< null if none was found
};

/// Where the driver's library is looked for: the system's loader knows it, under WSL a folder that it doesn't know.
[[nodiscard]] std::vector<Candidate> driver_candidates();
[[nodiscard]] OpenedDriver open_driver(std::span<const Candidate> candidates);

/// Why there is no driver, and what to do; nothing if one was found.
[[nodiscard]] std::optional<muster::Error> driver_error(const Search& search);
/// Why init() failed, and what to do.
[[nodiscard]] muster::Error init_error(const cuda::Driver& driver, cuda::Status status);

/// "13.0" for 13000
[[nodiscard]] std::string cuda_version_text(int version);

}  // namespace muster::gpu
