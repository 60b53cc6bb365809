// A GPU as a thread of this process uses it: its driver, a context, a stream.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "gpu/cuda.hpp"
#include "gpu/worker/segments.hpp"

namespace bench {

namespace cuda = musterd::gpu::cuda;

/// There is no GPU, and nothing is wrong with that.
struct NoGpu : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Device {
 public:
  /// Throws NoGpu, or std::runtime_error if there is a GPU that can't be used.
  explicit Device(cuda::Device number = 0);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device();

  [[nodiscard]] const cuda::Driver& driver() const { return *driver_; }
  [[nodiscard]] cuda::Device number() const { return number_; }
  /// How many GPUs there are.
  [[nodiscard]] int count() const;
  [[nodiscard]] cuda::Stream stream() const { return stream_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  /// "NVIDIA H100, CUDA 13.0"
  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::uint64_t granularity() const { return granularity_; }
  [[nodiscard]] std::uint64_t free_bytes() const;

  /// Throws what the driver says of a call that failed.
  void must(const char* call, cuda::Status status) const;
  void wait() const { must("cuStreamSynchronize", driver_->stream_synchronize(stream_)); }
  /// New memory, mapped, as a worker makes it. `bytes` is rounded up to the granularity.
  [[nodiscard]] std::unique_ptr<musterd::gpu::DeviceMapping> memory(std::uint64_t bytes) const;

 private:
  cuda::Device number_;
  std::unique_ptr<cuda::Driver> driver_;
  cuda::Stream stream_ = nullptr;
  std::string name_;
  std::uint64_t granularity_ = 0;
};

}  // namespace bench
