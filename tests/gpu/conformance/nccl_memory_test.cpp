// NCCL User Guide, "User Buffer Registration", "Memory Allocator", "ncclCommMemStats".
#include "nccl.hpp"

using namespace conformance;

TEST_CASE("memory of ncclMemAlloc is device memory that can be exported") {
  const OnDevice on(0);
  void* memory = nullptr;
  REQUIRE(NC(ncclMemAlloc)(&memory, 1000) == ncclSuccess);
  REQUIRE(memory != nullptr);
  const auto address = reinterpret_cast<CUdeviceptr>(memory);
  CHECK(CU(cuMemsetD8)(address, 7, 1000) == CUDA_SUCCESS);
  CUmemGenericAllocationHandle handle = 0;
  CHECK(CU(cuMemRetainAllocationHandle)(&handle, memory) == CUDA_SUCCESS);
  CHECK(CU(cuMemRelease)(handle) == CUDA_SUCCESS);
  CHECK(NC(ncclMemFree)(memory) == ncclSuccess);
  unsigned char byte = 0;
  CHECK(CU(cuMemcpyDtoH)(&byte, address, 1) != CUDA_SUCCESS);
}

TEST_CASE("more memory than there is can't be allocated") {
  const OnDevice on(0);
  void* memory = nullptr;
  CHECK(NC(ncclMemAlloc)(&memory, std::size_t{1} << 48) == ncclUnhandledCudaError);
  CHECK(memory == nullptr);
  CHECK(NC(ncclMemAlloc)(nullptr, 1) != ncclSuccess);
  CHECK(NC(ncclMemFree)(nullptr) == ncclSuccess);
}

TEST_CASE("collectives work in registered memory", "[2-gpus]") {
  run_ranks(2, Mode::nonblocking, [](Rank& rank) {
    void* memory = nullptr;
    void* handle = nullptr;
    MUST_NC(NC(ncclMemAlloc)(&memory, 64));
    MUST_NC(NC(ncclCommRegister)(rank.comm, memory, 64, &handle));
    const auto address = reinterpret_cast<CUdeviceptr>(memory);
    MUST_CU(CU(cuMemsetD32)(address, static_cast<unsigned>(rank.rank + 1), 16));
    MUST_CU(CU(cuCtxSynchronize)());
    rank.finish(NC(ncclAllReduce)(memory, memory, 16, ncclInt32, ncclSum, rank.comm, rank.stream()));
    std::vector<int> values(16);
    MUST_CU(CU(cuMemcpyDtoH)(values.data(), address, 64));
    MUST(values == std::vector<int>(16, 3));
    MUST_NC(NC(ncclCommDeregister)(rank.comm, handle));
    // Freeing may wait for all devices, so nobody may still wait for this rank.
    finalize_and_destroy(rank.comm);
    rank.comm = nullptr;
    MUST_NC(NC(ncclMemFree)(memory));
  });
}

TEST_CASE("a communicator tells how much memory it has", "[nccl-2.29.7]") {
  run_ranks(1, Mode::blocking, [](Rank& rank) {
    std::uint64_t all = ~std::uint64_t{0}, suspendable = 0, persistent = 0, suspended = 9;
    MUST_NC(NC(ncclCommMemStats)(rank.comm, ncclStatGpuMemTotal, &all));
    MUST_NC(NC(ncclCommMemStats)(rank.comm, ncclStatGpuMemSuspend, &suspendable));
    MUST_NC(NC(ncclCommMemStats)(rank.comm, ncclStatGpuMemPersist, &persistent));
    MUST_NC(NC(ncclCommMemStats)(rank.comm, ncclStatGpuMemSuspended, &suspended));
    MUST(all == suspendable + persistent);
    MUST(suspended == 0);
    MUST(NC(ncclCommMemStats)(rank.comm, ncclStatGpuMemTotal, nullptr) == ncclInvalidArgument);
  });
}
