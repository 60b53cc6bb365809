#include <muster/gpu/driver.hpp>

#include <cstdlib>

#include <fmt/format.h>

namespace muster::gpu {

using muster::Code;
using muster::Error;

namespace {

using cuda::Driver;
using cuda::Status;

constexpr const char* library_name = "libcuda.so.1";

/// Finds the driver's symbols. The driver is asked by name and version: the name alone stands for a call's oldest
/// signature. A library without cuGetProcAddress is asked for the symbol that has the version in its name.
class Symbols {
 public:
  explicit Symbols(const Library& library)
      : library_(library), ask_(reinterpret_cast<cuda::GetProcAddress*>(library.find("cuGetProcAddress_v2"))) {}

  [[nodiscard]] void* find(const char* name, const char* symbol, int since) const {
    if (!ask_) return library_.find(symbol);
    constexpr std::uint64_t default_flags = 0;
    void* function = nullptr;
    cuda::SymbolQuery query = cuda::SymbolQuery::not_found;
    const auto status = ask_(name, &function, since, default_flags, &query);
    return status == Status::success && query == cuda::SymbolQuery::found ? function : nullptr;
  }

 private:
  const Library& library_;
  cuda::GetProcAddress* ask_;
};

std::unique_ptr<Refusal> refuse(Finding finding, std::string why) {
  return std::make_unique<Refusal>(Refusal{finding, std::move(why)});
}

/// The version comes first: a driver that is too old may lack symbols as well, and the version is what to mend.
std::unique_ptr<Refusal> fill(Driver& driver, const Library& library) {
  const Symbols symbols(library);
  driver.driver_get_version = reinterpret_cast<decltype(driver.driver_get_version)>(
      symbols.find("cuDriverGetVersion", "cuDriverGetVersion", 2020));
  if (!driver.driver_get_version)
    return refuse(Finding::refused, "it has no symbol cuDriverGetVersion, so it is no CUDA driver");
  if (driver.driver_get_version(&driver.version) != Status::success)
    return refuse(Finding::refused, "it doesn't tell its version; it may be the toolkit's stub, which is for linking");
  if (driver.version < driver_version_min)
    return refuse(Finding::too_old,
                  fmt::format("it is for CUDA {}, and {} is needed at least", cuda_version_text(driver.version),
                              cuda_version_text(driver_version_min)));
#define MUSTER_FIND(member, name, symbol, since, ...)                                             \
  driver.member = reinterpret_cast<decltype(driver.member)>(symbols.find(#name, #symbol, since)); \
  if (!driver.member) return refuse(Finding::refused, "it has no symbol " #name " of version " #since);
  MUSTER_DRIVER_CALLS(MUSTER_FIND)
#undef MUSTER_FIND
  return nullptr;
}

/// What to try when init() fails. Nothing here depends on the driver's own text, which is short.
std::string init_hint(Status status) {
  switch (status) {
    case Status::no_device:
      if (const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES"))
        return fmt::format(
            "CUDA_VISIBLE_DEVICES is '{}' and may hide all GPUs: unset it, or name some of `nvidia-smi -L`", visible);
      return "see whether `nvidia-smi -L` lists a GPU; start a container with --gpus all";
    case Status::stub_library:
      return "this is the toolkit's stub, which is for linking: take its folder out of LD_LIBRARY_PATH";
    case Status::system_driver_mismatch:
      return "the library and the kernel's driver have different versions: reboot after an update of the driver; in a "
             "container, take the library from the host";
    case Status::compat_not_supported_on_device:
      return "the libraries of cuda-compat don't support this GPU: take them out of LD_LIBRARY_PATH, or update the "
             "driver";
    case Status::system_not_ready:
      return "a service of the machine isn't ready: on machines with NVSwitch, start nvidia-fabricmanager";
    case Status::mps_connection_failed:
    case Status::mps_rpc_failure:
    case Status::mps_server_not_ready:
      return "look at the MPS server (nvidia-cuda-mps-control), or unset CUDA_MPS_PIPE_DIRECTORY";
    case Status::operating_system:
    case Status::not_permitted:
      return "this user may not open the GPUs' files: see `ls -l /dev/nvidia*`; start a container with --gpus all";
    case Status::device_unavailable: return "another process has the GPU for itself: see `nvidia-smi`";
    case Status::out_of_memory: return "free memory of the host or of the GPUs: see `nvidia-smi`";
    default: return "see whether `nvidia-smi` works, and what the kernel's log says: dmesg | grep -i nvrm";
  }
}

}  // namespace

namespace cuda {

std::string text_of(const Uuid& uuid) {
  std::string text = "GPU-";
  for (std::size_t i = 0; i < uuid.bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned char>(uuid.bytes[i]));
  }
  return text;
}

bool leaves_context(Status status) {
  switch (status) {
    case Status::success:
    case Status::not_ready:
    case Status::invalid_value:
    case Status::out_of_memory:
    case Status::not_found:
    case Status::not_supported:
    case Status::launch_out_of_resources:
    case Status::invalid_image:
    case Status::invalid_ptx:
    case Status::unsupported_ptx_version:
    case Status::jit_compiler_not_found:
    case Status::no_binary_for_gpu: return true;
    default: return false;
  }
}

std::string Driver::name_of(Status status) const {
  const char* text = nullptr;
  const bool known = get_error_name(status, &text) == Status::success && text != nullptr;
  return known ? text : "an unknown status";
}

std::string Driver::describe(Status status) const {
  const char* text = nullptr;
  const bool known = get_error_string(status, &text) == Status::success && text != nullptr;
  return fmt::format("{} ({}){}{}", name_of(status), static_cast<int>(status), known ? ": " : "", known ? text : "");
}

}  // namespace cuda

std::string cuda_version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

std::vector<Candidate> driver_candidates() {
  return {{library_name, "the system's loader: " + loader_folders()}, {"/usr/lib/wsl/lib/libcuda.so.1", "WSL"}};
}

OpenedDriver open_driver(std::span<const Candidate> candidates) {
  OpenedDriver opened;
  auto driver = std::make_unique<Driver>();
  opened.search = search_library(candidates, [&](const Library& library, Search& search) {
    *driver = {};
    auto refusal = fill(*driver, library);
    if (!refusal) search.version = driver->version;
    return refusal;
  });
  if (opened.search.finding != Finding::found) return opened;
  driver->path = opened.search.path;
  opened.driver = std::move(driver);
  return opened;
}

std::optional<Error> driver_error(const Search& search) {
  switch (search.finding) {
    case Finding::found: break;
    case Finding::absent:
      return Error(Code::invalid, "the CUDA driver (libcuda.so.1) was not found: " + search.places(),
                   "install NVIDIA's driver, 580 or newer; start a container with --gpus all");
    case Finding::refused:
      return Error(Code::invalid, "the CUDA driver (libcuda.so.1) can't be used: " + search.places(),
                   "take the file of NVIDIA's driver: see LD_LIBRARY_PATH, and /etc/ld.so.conf.d");
    case Finding::too_old:
      return Error(Code::invalid, "the CUDA driver (libcuda.so.1) is too old: " + search.places(),
                   "update NVIDIA's driver to 580 or newer");
  }
  return std::nullopt;
}

Error init_error(const Driver& driver, Status status) {
  return {Code::invalid,
          fmt::format("cuInit failed: {} ({}, CUDA {})", driver.describe(status), driver.path,
                      cuda_version_text(driver.version)),
          init_hint(status)};
}

}  // namespace muster::gpu
