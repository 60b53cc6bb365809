// Memory of the host that GPUs of this process read and write directly, as it is registered with CUDA: its pages stay
// where they are, and copies need no other memory in between. So a process pins only so much.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include <muster/ipc/fd.hpp>
#include <muster/result.hpp>

#include "cuda.hpp"

namespace muster::detail {

/// How much of a store's memory this process may pin. The kernel has no limit for what CUDA pins. Thread-safe.
class PinLimit {
 public:
  explicit PinLimit(std::uint64_t bytes_max) : left_(bytes_max) {}
  /// False, and nothing is taken, if less is left.
  [[nodiscard]] bool take(std::uint64_t bytes);
  void give_back(std::uint64_t bytes) { left_ += bytes; }

 private:
  std::atomic<std::uint64_t> left_;
};

/// A whole mapping that is pinned. It ends before it is unmapped, when no work uses it any more.
class Pin {
 public:
  Pin(Cuda& cuda, PinLimit& limit, std::byte* address, std::uint64_t bytes)
      : cuda_(cuda), limit_(limit), address_(address), bytes_(bytes) {}
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;
  ~Pin();
  /// False if it can't be registered for this access here: see Cuda::register_host().
  [[nodiscard]] Result<bool> begin(ipc::Access access);

 private:
  Cuda& cuda_;
  PinLimit& limit_;
  std::byte* address_;
  std::uint64_t bytes_;
  CudaContextPtr context_;  ///< null until it has begun
};

/// Leaves it as it is in a forked child, where CUDA does not work.
struct EndPin {
  void operator()(Pin* pin) const;
};
using PinPtr = std::unique_ptr<Pin, EndPin>;

/// Pins memory that this process writes. Null if that is beyond the limit: then the memory is as any other of the host.
/// Invalid if this process can't use CUDA.
[[nodiscard]] Result<PinPtr> pin_for_writing(std::byte* address, std::uint64_t bytes, PinLimit& limit);
/// Pins memory that is mapped for reading. Null if that is beyond the limit, if the driver does not do it, or if this
/// process has used no GPU so far: who only reads is not made to.
[[nodiscard]] PinPtr pin_for_reading(std::byte* address, std::uint64_t bytes, PinLimit& limit);

}  // namespace muster::detail
