// What the tests share: contexts, memory of all kinds, and work that waits until it is told.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include <catch2/catch.hpp>

#include "cuda_api.hpp"

#define REQUIRE_CU(call) REQUIRE((call) == CUDA_SUCCESS)

namespace conformance {

constexpr std::size_t mebibyte = 1 << 20;

inline void init() { REQUIRE_CU(CU(cuInit)(0)); }

inline int devices() {
  init();
  int number = 0;
  REQUIRE_CU(CU(cuDeviceGetCount)(&number));
  return number;
}

/// The primary context of a device, current to this thread.
class PrimaryContext {
 public:
  explicit PrimaryContext(CUdevice device = 0) : device_(device) {
    init();
    REQUIRE_CU(CU(cuDevicePrimaryCtxRetain)(&context_, device));
    REQUIRE_CU(CU(cuCtxSetCurrent)(context_));
  }
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;
  ~PrimaryContext() {
    CU(cuCtxSetCurrent)(nullptr);
    CHECK(CU(cuDevicePrimaryCtxRelease)(device_) == CUDA_SUCCESS);
  }
  [[nodiscard]] CUcontext get() const { return context_; }

 private:
  CUdevice device_;
  CUcontext context_ = nullptr;
};

inline CUmemAllocationProp properties_of(CUdevice device = 0) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  return properties;
}

inline std::size_t granularity() {
  const auto properties = properties_of();
  std::size_t bytes = 0;
  REQUIRE_CU(CU(cuMemGetAllocationGranularity)(&bytes, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
  return bytes;
}

inline CUresult set_access(CUdeviceptr address, std::size_t bytes, CUmemAccess_flags flags, CUdevice device = 0) {
  CUmemAccessDesc access{};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = device;
  access.flags = flags;
  return CU(cuMemSetAccess)(address, bytes, &access, 1);
}

/// Memory by cuMemCreate.
class Handle {
 public:
  explicit Handle(std::size_t bytes, CUdevice device = 0) {
    const auto properties = properties_of(device);
    REQUIRE_CU(CU(cuMemCreate)(&handle_, bytes, &properties, 0));
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { release(); }
  void release() {
    if (handle_ != 0) CHECK(CU(cuMemRelease)(handle_) == CUDA_SUCCESS);
    handle_ = 0;
  }
  [[nodiscard]] CUmemGenericAllocationHandle get() const { return handle_; }
  [[nodiscard]] int export_fd() const {
    int fd = -1;
    REQUIRE_CU(CU(cuMemExportToShareableHandle)(&fd, handle_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    return fd;
  }

 private:
  CUmemGenericAllocationHandle handle_ = 0;
};

/// Addresses by cuMemAddressReserve; unmaps what the test mapped with `map`.
class Reservation {
 public:
  explicit Reservation(std::size_t bytes) : bytes_(bytes) {
    REQUIRE_CU(CU(cuMemAddressReserve)(&address_, bytes, 0, 0, 0));
  }
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;
  ~Reservation() {
    if (mapped_ != 0) unmap();
    CHECK(CU(cuMemAddressFree)(address_, bytes_) == CUDA_SUCCESS);
  }
  void map(const Handle& handle, std::size_t bytes) {
    REQUIRE_CU(CU(cuMemMap)(address_, bytes, 0, handle.get(), 0));
    mapped_ = bytes;
  }
  void unmap() {
    CHECK(CU(cuMemUnmap)(address_, mapped_) == CUDA_SUCCESS);
    mapped_ = 0;
  }
  [[nodiscard]] CUdeviceptr get() const { return address_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_;
  std::size_t mapped_ = 0;
  CUdeviceptr address_ = 0;
};

/// Memory by cuMemAlloc.
class Memory {
 public:
  explicit Memory(std::size_t bytes) { REQUIRE_CU(CU(cuMemAlloc)(&address_, bytes)); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (address_ != 0) CHECK(CU(cuMemFree)(address_) == CUDA_SUCCESS);
  }
  void free() {
    REQUIRE_CU(CU(cuMemFree)(address_));
    address_ = 0;
  }
  [[nodiscard]] CUdeviceptr get() const { return address_; }

 private:
  CUdeviceptr address_ = 0;
};

/// Memory by cuMemHostAlloc.
class Pinned {
 public:
  explicit Pinned(std::size_t bytes) { REQUIRE_CU(CU(cuMemHostAlloc)(&pointer_, bytes, CU_MEMHOSTALLOC_PORTABLE)); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { CHECK(CU(cuMemFreeHost)(pointer_) == CUDA_SUCCESS); }
  [[nodiscard]] unsigned char* get() const { return static_cast<unsigned char*>(pointer_); }

 private:
  void* pointer_ = nullptr;
};

class Stream {
 public:
  explicit Stream(unsigned flags = CU_STREAM_NON_BLOCKING) { REQUIRE_CU(CU(cuStreamCreate)(&stream_, flags)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { CHECK(CU(cuStreamDestroy)(stream_) == CUDA_SUCCESS); }
  [[nodiscard]] CUstream get() const { return stream_; }

 private:
  CUstream stream_ = nullptr;
};

class Event {
 public:
  explicit Event(unsigned flags = CU_EVENT_DISABLE_TIMING) { REQUIRE_CU(CU(cuEventCreate)(&event_, flags)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { CHECK(CU(cuEventDestroy)(event_) == CUDA_SUCCESS); }
  [[nodiscard]] CUevent get() const { return event_; }

 private:
  CUevent event_ = nullptr;
};

/// Work in a stream that isn't done before the gate opens. It is no host function, as one of these may keep those of
/// all other streams waiting. Memory of the host is taken and freed while no gate is closed, as that may wait for work.
class Gate {
 public:
  Gate() = default;
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  ~Gate() { open(); }
  void close(CUstream stream) {
    stream_ = stream;
    is_closed_ = true;
    number().store(0);
    REQUIRE_CU(
        CU(cuStreamWaitValue32)(stream, reinterpret_cast<CUdeviceptr>(memory_.get()), 1, CU_STREAM_WAIT_VALUE_EQ));
  }
  /// Opens the gate, and waits until all work is done, so that nothing uses the gate afterwards.
  void open() {
    if (!is_closed_) return;
    number().store(1);
    CHECK(CU(cuStreamSynchronize)(stream_) == CUDA_SUCCESS);
    is_closed_ = false;
  }

 private:
  std::atomic_ref<cuuint32_t> number() { return std::atomic_ref(*reinterpret_cast<cuuint32_t*>(memory_.get())); }

  Pinned memory_{sizeof(cuuint32_t)};
  CUstream stream_ = nullptr;
  bool is_closed_ = false;
};

inline std::vector<unsigned char> bytes_at(CUdeviceptr address, std::size_t number) {
  std::vector<unsigned char> bytes(number);
  REQUIRE_CU(CU(cuMemcpyDtoH)(bytes.data(), address, number));
  return bytes;
}

inline std::size_t free_bytes() {
  std::size_t free = 0, total = 0;
  REQUIRE_CU(CU(cuMemGetInfo)(&free, &total));
  return free;
}

}  // namespace conformance
