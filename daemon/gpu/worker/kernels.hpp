// The kernels of this program on its worker's GPU.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <muster/result.hpp>

#include "daemon/gpu/kernels/launch.hpp"
#include "gpu/cuda.hpp"

namespace musterd::gpu {

/// Addresses that a launch reads, in pinned memory of the host: a copy from other memory may be made only when the
/// stream comes to it. Freed in the destructor, when the launch must be over.
class PinnedTable {
 public:
  explicit PinnedTable(const cuda::Driver& driver) : driver_(&driver) {}
  PinnedTable(PinnedTable&& other) noexcept
      : driver_(other.driver_), host_(std::exchange(other.host_, nullptr)), address_(other.address_) {}
  PinnedTable& operator=(PinnedTable&&) = delete;
  ~PinnedTable() {
    if (host_) driver_->mem_free_host(host_);
  }
  [[nodiscard]] cuda::Status fill(const std::vector<std::uint64_t>& table);
  [[nodiscard]] cuda::Address address() const { return address_; }

 private:
  const cuda::Driver* driver_;
  void* host_ = nullptr;
  cuda::Address address_ = 0;
};

class Kernels {
 public:
  Kernels(const cuda::Driver& driver, cuda::Device device) : driver_(driver), device_(device) {}

  /// How a call of the driver ended; `call` names it.
  struct Step {
    const char* call = "";
    cuda::Status status = cuda::Status::success;
  };
  /// Why there are no kernels in this program; nothing if there are.
  [[nodiscard]] static muster::Result<void> there();
  /// Puts the launch into the stream. What it needs until it is over is added to `tables`.
  [[nodiscard]] Step launch(kernels::Launch& launch, cuda::Stream stream, std::vector<PinnedTable>& tables);
  [[nodiscard]] kernels::Gpu gpu();

 private:
  [[nodiscard]] Step find(const char* kernel, cuda::Function& function);

  const cuda::Driver& driver_;
  cuda::Device device_;
  cuda::Module module_ = nullptr;  ///< loaded with the first launch
  std::map<std::string, cuda::Function, std::less<>> functions_;
  int multiprocessors_ = 0;
};

}  // namespace musterd::gpu
