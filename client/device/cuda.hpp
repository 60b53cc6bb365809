// The CUDA driver as this process uses it: to map memory of GPUs, to register memory of the host, to copy, and to wait
// until work on a GPU is over. It is opened when it is first needed, and stays so until the process ends. Threads find
// their current context unchanged.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <muster/device.hpp>
#include <muster/gpu/device_mapping.hpp>
#include <muster/gpu/driver.hpp>
#include <muster/ipc/fd.hpp>
#include <muster/ipc/in_place.hpp>
#include <muster/result.hpp>

namespace muster::detail {

/// A GPU's own context, the one that its other users in this process have, too. Released with its last owner.
class CudaContext {
 public:
  CudaContext(const gpu::cuda::Driver& driver, gpu::cuda::Device device) : driver_(driver), device_(device) {}
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;
  ~CudaContext();
  [[nodiscard]] gpu::cuda::Status retain();
  [[nodiscard]] gpu::cuda::Context get() const { return context_; }
  [[nodiscard]] gpu::cuda::Device device() const { return device_; }

 private:
  const gpu::cuda::Driver& driver_;
  gpu::cuda::Device device_;
  gpu::cuda::Context context_ = nullptr;
};
using CudaContextPtr = std::shared_ptr<const CudaContext>;

/// Memory of a GPU that is mapped, and the context that uses it.
struct CudaMapping {
  CudaMapping(const gpu::cuda::Driver& driver, std::uint64_t bytes) : mapping(driver, bytes) {}
  CudaContextPtr context;
  gpu::DeviceMapping mapping;
};

class Cuda;

/// A use of an allocation that processes share by CUDA's legacy IPC: one of this process, or one of another that is
/// open here. It is opened once for all uses, and closed with the last of them; work that uses it must be over.
class CudaShared {
 public:
  CudaShared(Cuda& cuda, const ipc::InPlaceMemory& memory, std::byte* base)
      : cuda_(cuda), memory_(memory), base_(base) {}
  CudaShared(const CudaShared&) = delete;
  CudaShared& operator=(const CudaShared&) = delete;
  ~CudaShared();
  [[nodiscard]] const ipc::InPlaceMemory& memory() const { return memory_; }
  /// Where the allocation begins, on its GPU.
  [[nodiscard]] std::byte* base() const { return base_; }

 private:
  Cuda& cuda_;
  ipc::InPlaceMemory memory_;
  std::byte* base_;
};

/// Leaves it as it is in a forked child, where CUDA does not work.
struct EndShared {
  void operator()(CudaShared* shared) const;
};
using CudaSharedPtr = std::unique_ptr<CudaShared, EndShared>;

class Cuda {
 public:
  /// The driver, initialized. If it can't be had, the reason, at every call. Invalid in a child that was forked by a
  /// process that had it: CUDA does not work there.
  [[nodiscard]] static Result<Cuda*> get();
  /// The same if this process has it already, and null otherwise. Never opens it.
  [[nodiscard]] static Cuda* if_open();

  /// Maps memory that the descriptor names, for the GPU that has it. `device` is what Muster calls that GPU; this
  /// process may know it by another number, or not at all, which is Invalid.
  [[nodiscard]] Result<std::unique_ptr<CudaMapping>> map(const ipc::Fd& fd, std::uint64_t bytes, ipc::Access access,
                                                         Device device);
  /// Plain memory of a GPU, as cudaMalloc() makes it: for what can't be in the store. `ordinal` is CUDA's number of the
  /// GPU in this process.
  [[nodiscard]] Result<void*> allocate(int ordinal, std::uint64_t bytes);
  /// Does nothing for an address that allocate() did not return. Waits for work on that GPU first.
  void free(void* address);
  /// The allocation with this address, for other processes to open. Null if the driver can't share it so: it shares
  /// plain memory of this process only, as cudaMalloc() makes it.
  [[nodiscard]] Result<CudaSharedPtr> share(const void* address);
  /// Opens memory of another process, or finds this one's own. ObjectLost if it can't be opened; Invalid if this
  /// process does not see that GPU, which Muster calls `device`.
  [[nodiscard]] Result<CudaSharedPtr> open(const ipc::InPlaceMemory& memory, Device device);
  /// Waits until all work that this process has given to the GPU with this memory is over, like cudaFree().
  [[nodiscard]] Result<void> finish(const void* address);
  /// The same for the work of one stream. Timeout if that takes longer.
  [[nodiscard]] Result<void> finish(const void* address, Stream stream, std::chrono::nanoseconds timeout);
  /// Waits until all work that this process has given to any GPU is over.
  [[nodiscard]] Result<void> finish_all();
  /// Waits until no work of this process can use memory of the store at this address: that of its GPU, or if it is
  /// pinned, that of all GPUs.
  [[nodiscard]] static Result<void> finish_on(Device device, const void* address);
  /// Copies between memory of any kind, and returns when that is done. At least one address is a GPU's. What was to be
  /// written there must be finished.
  [[nodiscard]] Result<void> copy(void* to, const void* from, std::uint64_t bytes);
  /// Registers a whole mapping of the host's memory for all GPUs: CUDA refuses a copy over memory of which only a part
  /// is registered. The context keeps the registration. For reading only, null if the driver does not do that, or if
  /// nobody in this process uses a GPU.
  [[nodiscard]] Result<CudaContextPtr> register_host(std::byte* address, std::uint64_t bytes, ipc::Access access);
  void unregister_host(std::byte* address, const CudaContext& context);
  /// Whether GPUs reach this memory of the host directly.
  [[nodiscard]] bool is_pinned(const void* address) const;
  /// How many bytes the allocation has from this address on. Nothing if it is no memory of a GPU.
  [[nodiscard]] std::optional<std::uint64_t> bytes_from(const void* address) const;
  /// The number by which CUDA knows the GPU with this memory in this process. Nothing if it is no memory of a GPU.
  [[nodiscard]] std::optional<int> ordinal_of(const void* address) const;
  /// The number by which CUDA knows a GPU in this process; Invalid if it does not see it. Muster calls it `device`.
  [[nodiscard]] Result<int> gpu_with(const ipc::GpuUuid& uuid, Device device) const;

 private:
  explicit Cuda(std::unique_ptr<gpu::cuda::Driver> driver) : driver_(std::move(driver)) {}
  struct Opened;
  [[nodiscard]] static const Opened& opened();
  /// The GPUs that anybody in this process uses, by their primary contexts.
  [[nodiscard]] std::vector<gpu::cuda::Device> used() const;
  /// Makes the GPU's own context that of this thread, until it ends.
  class Current;
  [[nodiscard]] Result<CudaContextPtr> context_of(gpu::cuda::Device device);
  /// Of the GPU that has this memory.
  [[nodiscard]] Result<CudaContextPtr> context_at(const void* address);
  /// Success and nothing for memory that CUDA does not know.
  [[nodiscard]] gpu::cuda::Status find_ordinal(const void* address, std::optional<int>& ordinal) const;
  [[nodiscard]] Error failed(const char* call, gpu::cuda::Status status) const;

  std::unique_ptr<gpu::cuda::Driver> driver_;
  std::mutex mutex_;                                           ///< guards what follows; nothing is locked under it
  std::array<std::weak_ptr<const CudaContext>, 64> contexts_;  ///< by the device's number
  std::map<void*, CudaContextPtr> allocated_;                  ///< plain memory, which ends with its context

  friend class CudaShared;
  struct Shared {
    std::byte* base = nullptr;
    bool is_own = false;
    std::size_t uses = 0;
    CudaContextPtr context;
  };
  [[nodiscard]] CudaSharedPtr use(Shared& shared, const ipc::InPlaceMemory& memory);
  void end_use(const ipc::MemoryHandle& handle);
  std::mutex shared_mutex_;  ///< guards what follows, also while the driver opens and closes: each is open once
  std::map<ipc::MemoryHandle, Shared> shared_;
};

}  // namespace muster::detail
