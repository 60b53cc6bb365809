// What the tests of NCCL share: ranks that are threads, and memory with values.
#pragma once

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "nccl_functions.hpp"

namespace conformance {

/// Ends the communicator of this thread's rank, so that the other ranks don't wait for it.
void give_up_rank();

/// Threads can't use the macros of the tests, so what goes wrong in one is thrown.
[[noreturn]] inline void fail(const std::string& text, int line) {
  const auto whole = text + " in line " + std::to_string(line);
  give_up_rank();
  throw std::runtime_error(whole);
}
inline void must(bool holds, const char* what, int line) {
  if (!holds) fail(std::string(what) + " doesn't hold", line);
}
#define MUST(condition) conformance::must((condition), #condition, __LINE__)
#define MUST_CU(call) conformance::must((call) == CUDA_SUCCESS, #call, __LINE__)
inline void must_nccl(ncclResult_t result, const char* what, int line) {
  if (result == ncclSuccess) return;
  fail(std::string(what) + " says " + NC(ncclGetErrorString)(result) + " (" + NC(ncclGetLastError)(nullptr) + ")",
       line);
}
#define MUST_NC(call) conformance::must_nccl((call), #call, __LINE__)

/// The address of device memory, or a stream of the driver API, as NCCL takes them.
inline void* pointer(CUdeviceptr address) {
  return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
}
inline cudaStream_t as_stream(CUstream stream) { return reinterpret_cast<cudaStream_t>(stream); }

/// NCCL_CONFIG_INITIALIZER of the version that the library is, which may be older than the header.
ncclConfig_t* make_config(bool blocking);

inline ncclUniqueId unique_id() {
  ncclUniqueId id{};
  must_nccl(NC(ncclGetUniqueId)(&id), "ncclGetUniqueId", __LINE__);
  return id;
}

/// Waits as long as the communicator is in progress, and returns its state then.
inline ncclResult_t settled(ncclComm_t comm) {
  ncclResult_t state = ncclInProgress;
  while (NC(ncclCommGetAsyncError)(comm, &state) == ncclSuccess && state == ncclInProgress)
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  return state;
}

/// Waits for a call that may have been left in progress.
inline ncclResult_t settled(ncclComm_t comm, ncclResult_t result) {
  return result == ncclInProgress ? settled(comm) : result;
}

/// A device, with its primary context current in this thread, and a stream.
class OnDevice {
 public:
  explicit OnDevice(int device) : device_(device) {
    MUST_CU(CU(cuInit)(0));
    MUST_CU(CU(cuDevicePrimaryCtxRetain)(&context_, device));
    MUST_CU(CU(cuCtxSetCurrent)(context_));
    MUST_CU(CU(cuStreamCreate)(&stream_, CU_STREAM_NON_BLOCKING));
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() {
    CU(cuCtxSetCurrent)(context_);
    CU(cuStreamDestroy)(stream_);
    CU(cuCtxSetCurrent)(nullptr);
    CU(cuDevicePrimaryCtxRelease)(device_);
  }
  void use() const { MUST_CU(CU(cuCtxSetCurrent)(context_)); }
  [[nodiscard]] CUstream stream() const { return stream_; }
  [[nodiscard]] int device() const { return device_; }
  void synchronize() const { MUST_CU(CU(cuStreamSynchronize)(stream_)); }
  [[nodiscard]] bool idle() const { return CU(cuStreamQuery)(stream_) == CUDA_SUCCESS; }
  void wait_idle() const {
    while (CU(cuStreamQuery)(stream_) == CUDA_ERROR_NOT_READY)
      std::this_thread::sleep_for(std::chrono::microseconds(200));
  }

 private:
  int device_;
  CUcontext context_ = nullptr;
  CUstream stream_ = nullptr;
};

/// Says that an array has a size and no values yet.
struct Blank {};
constexpr Blank blank;

/// cuMemFree may wait for all devices, and so for an op that waits for this rank. So the memory of a rank is freed when
/// it has done everything else; null for other threads.
std::vector<CUdeviceptr>*& kept_memory();

/// Device memory with elements of any type.
template <class T>
class Array {
 public:
  Array(Blank /*tag*/, std::size_t count) : count_(count) {
    MUST_CU(CU(cuMemAlloc)(&address_, std::max<std::size_t>(count * sizeof(T), 1)));
  }
  explicit Array(const std::vector<T>& values) : Array(blank, values.size()) { set(values); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() {
    if (kept_memory() != nullptr) kept_memory()->push_back(address_);
    else CU(cuMemFree)(address_);
  }
  void set(const std::vector<T>& values) const {
    MUST_CU(CU(cuMemcpyHtoD)(address_, values.data(), values.size() * sizeof(T)));
    MUST_CU(CU(cuCtxSynchronize)());
  }
  [[nodiscard]] std::vector<T> get() const {
    std::vector<T> values(count_);
    MUST_CU(CU(cuMemcpyDtoH)(values.data(), address_, count_ * sizeof(T)));
    return values;
  }
  [[nodiscard]] void* at(std::size_t index = 0) const { return pointer(address_ + index * sizeof(T)); }

 private:
  std::size_t count_;
  CUdeviceptr address_ = 0;
};

/// One rank: a thread with a device and a communicator.
struct Rank {
  OnDevice& on;
  int rank = 0;
  int ranks = 0;
  ncclComm_t comm = nullptr;

  [[nodiscard]] cudaStream_t stream() const { return as_stream(on.stream()); }
  /// Waits for a call of NCCL, and then for the stream.
  void finish(ncclResult_t result) const {
    MUST_NC(settled(comm, result));
    finish();
  }
  /// Waits for the stream, but not for ranks that have gone.
  void finish() const {
    while (CU(cuStreamQuery)(on.stream()) == CUDA_ERROR_NOT_READY) {
      MUST_NC(settled(comm));
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    on.synchronize();
  }
};

/// Lets ranks wait until others have come so far. What ranks do at their end may be an error to those that still work.
class Milestone {
 public:
  void reach() { ++reached_; }
  void wait(int ranks) const {
    while (reached_ < ranks) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }

 private:
  std::atomic<int> reached_ = 0;
};

/// Runs the function for each rank, each in a thread. What one of them throws fails the test.
void run_threads(int ranks, const std::function<void(int)>& function);

enum class Mode { blocking, nonblocking };

/// Makes a communicator of so many ranks, lets each do this, and destroys it. A rank that has no communicator at the
/// end has ended it by itself.
void run_ranks(int ranks, Mode mode, const std::function<void(Rank&)>& function);

/// Ends a communicator as its documentation recommends.
void finalize_and_destroy(ncclComm_t comm);

}  // namespace conformance
