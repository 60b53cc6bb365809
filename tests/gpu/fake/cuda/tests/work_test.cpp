// What the fake offers to other fakes and to host kernels (see kernels.h), and strict answers to what the manual leaves
// undefined. Only these tests use CUDA in their own process.
#include "kernels.h"

#include <atomic>
#include <cstring>
#include <thread>

#include "conformance/gpu.hpp"
#include "machine.hpp"

using namespace conformance;

namespace {

auto host_address() { return driver_function<decltype(&muster_fake_gpu_host_address)>("muster_fake_gpu_host_address"); }
auto enqueue() { return driver_function<decltype(&muster_fake_gpu_enqueue)>("muster_fake_gpu_enqueue"); }
auto must_end() { return driver_function<decltype(&muster_fake_gpu_must_end)>("muster_fake_gpu_must_end"); }

struct Sum {
  CUdeviceptr address;
  int result;  // what the work gives back
};

int add_one(void* argument) {
  const auto& sum = *static_cast<Sum*>(argument);
  auto* value = static_cast<char*>(host_address()(sum.address, 1, 1));
  if (value != nullptr) ++*value;
  return sum.result;
}

int wait_for_it(void* flag) {
  while (!static_cast<std::atomic<bool>*>(flag)->load()) std::this_thread::yield();
  return 0;
}

int wait_for_the_end(void* started) {
  static_cast<std::atomic<bool>*>(started)->store(true);
  while (must_end()() == 0) std::this_thread::yield();
  return 0;
}

/// A process stays on the machine on which it has called cuInit.
const fake_gpu::testing::Machine& machine() {
  static const fake_gpu::testing::Machine own("devices = 2\npeers = none\n");
  own.use();
  return own;
}

}  // namespace

TEST_CASE("other fakes run work in streams, under the rules of the device") {
  machine();
  const PrimaryContext context;
  const Memory memory(4096);
  Sum sum{memory.get(), 0};
  REQUIRE_CU(CU(cuMemsetD8)(memory.get(), 5, 1));
  REQUIRE(enqueue()(nullptr, add_one, &sum) == 0);
  CHECK(bytes_at(memory.get(), 1)[0] == 6);
  CHECK(host_address()(memory.get(), 4096, 1) != nullptr);
  CHECK(host_address()(memory.get(), 4097, 0) == nullptr);
  CHECK(host_address()(memory.get() + 8192, 1, 0) == nullptr);

  // What another device may not touch breaks its context, and only that.
  CUcontext other = nullptr;
  REQUIRE_CU(CU(cuCtxCreate)(&other, nullptr, 0, 1));
  REQUIRE(enqueue()(nullptr, add_one, &sum) == 0);
  CHECK(CU(cuCtxSynchronize)() == CUDA_ERROR_ILLEGAL_ADDRESS);
  REQUIRE_CU(CU(cuCtxDestroy)(other));
  CHECK(bytes_at(memory.get(), 1)[0] == 6);

  // Work may break its context itself.
  REQUIRE_CU(CU(cuCtxCreate)(&other, nullptr, 0, 0));
  sum.result = CUDA_ERROR_LAUNCH_FAILED;
  REQUIRE(enqueue()(nullptr, add_one, &sum) == 0);
  CHECK(CU(cuCtxSynchronize)() == CUDA_ERROR_LAUNCH_FAILED);
  REQUIRE_CU(CU(cuCtxDestroy)(other));

  // Work that waits learns that its context ends.
  REQUIRE_CU(CU(cuCtxCreate)(&other, nullptr, 0, 0));
  std::atomic<bool> started{false};
  REQUIRE(enqueue()(nullptr, wait_for_the_end, &started) == 0);
  while (!started) std::this_thread::yield();
  CHECK(CU(cuStreamQuery)(nullptr) == CUDA_ERROR_NOT_READY);
  REQUIRE_CU(CU(cuCtxDestroy)(other));
}

TEST_CASE("an allocation ends where it was asked to end") {
  machine();
  const PrimaryContext context;
  const Memory memory(100);
  CHECK(CU(cuMemsetD8)(memory.get(), 0, 100) == CUDA_SUCCESS);
  CHECK(CU(cuMemsetD8)(memory.get(), 0, 101) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("freeing waits for work that uses the memory") {
  machine();
  const PrimaryContext context;
  const Stream stream;
  Memory memory(64 * mebibyte);
  for (int round = 0; round < 5; ++round) REQUIRE_CU(CU(cuMemsetD8Async)(memory.get(), 1, 64 * mebibyte, stream.get()));
  memory.free();
  CHECK(CU(cuStreamSynchronize)(stream.get()) == CUDA_SUCCESS);
}

TEST_CASE("unmapping does not wait for work that comes later, which breaks the context") {
  machine();
  init();
  CUcontext own = nullptr;
  REQUIRE_CU(CU(cuCtxCreate)(&own, nullptr, 0, 0));
  const auto bytes = granularity();
  {
    const Handle handle(bytes);
    Reservation addresses(bytes);
    addresses.map(handle, bytes);
    REQUIRE_CU(set_access(addresses.get(), bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
    std::atomic<bool> may_go_on{false};
    REQUIRE(enqueue()(nullptr, wait_for_it, &may_go_on) == 0);
    REQUIRE_CU(CU(cuMemsetD8Async)(addresses.get(), 1, bytes, nullptr));
    addresses.unmap();
    may_go_on = true;
    CHECK(CU(cuCtxSynchronize)() == CUDA_ERROR_ILLEGAL_ADDRESS);
    REQUIRE_CU(CU(cuCtxDestroy)(own));
    const PrimaryContext context;  // a healthy one, for the destructors
  }
}

TEST_CASE("a destroyed context can't be made current") {
  machine();
  init();
  CUcontext context = nullptr;
  REQUIRE_CU(CU(cuCtxCreate)(&context, nullptr, 0, 0));
  REQUIRE_CU(CU(cuCtxDestroy)(context));
  CHECK(CU(cuCtxSetCurrent)(context) == CUDA_ERROR_CONTEXT_IS_DESTROYED);
}

TEST_CASE("an event is invalid to others when its maker has destroyed it") {
  machine();
  const PrimaryContext context;
  Peer peer;
  Request request;
  {
    const Event event(CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS);
    CUipcEventHandle handle{};
    REQUIRE_CU(CU(cuIpcGetEventHandle)(&handle, event.get()));
    request.op = Op::open_event;
    std::memcpy(request.payload, &handle, sizeof(handle));
    REQUIRE(peer.ask(request).code == 0);
    CHECK(peer.code(Op::query_event) == 0);
  }
  CHECK(peer.code(Op::query_event) == CUDA_ERROR_INVALID_HANDLE);
  CHECK(peer.code(Op::destroy_event) == 0);
  CHECK(peer.ask(request).code == CUDA_ERROR_INVALID_HANDLE);
}

// A real driver knows a released handle for a while (seen with 580.159).
TEST_CASE("a released handle is no handle") {
  machine();
  const PrimaryContext context;
  Handle handle(granularity());
  const auto value = handle.get();
  handle.release();
  CUmemAllocationProp properties{};
  CHECK(CU(cuMemGetAllocationPropertiesFromHandle)(&properties, value) == CUDA_ERROR_INVALID_VALUE);
}

// A real driver unmaps what there is, and nothing without an error (seen with 580.159).
TEST_CASE("where nothing is mapped nothing can be unmapped") {
  machine();
  const PrimaryContext context;
  const Reservation addresses(granularity());
  CHECK(CU(cuMemUnmap)(addresses.get(), addresses.bytes()) == CUDA_ERROR_INVALID_VALUE);
}
