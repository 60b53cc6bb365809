// CUDA Driver API, 6.7 Primary Context Management, 6.8 Context Management, "Peer Context Memory Access".
#include <thread>

#include "gpu.hpp"
#include "peer.hpp"

using namespace conformance;

namespace {

CUcontext current() {
  CUcontext context = nullptr;
  REQUIRE_CU(CU(cuCtxGetCurrent)(&context));
  return context;
}

CUcontext create() {
  init();
  CUcontext context = nullptr;
  REQUIRE_CU(CU(cuCtxCreate)(&context, nullptr, 0, 0));
  return context;
}

bool active() {
  unsigned flags = 0;
  int is_active = -1;
  REQUIRE_CU(CU(cuDevicePrimaryCtxGetState)(0, &flags, &is_active));
  return is_active == 1;
}

}  // namespace

TEST_CASE("calls without a context say so") {
  init();
  REQUIRE(current() == nullptr);
  CUdeviceptr address = 0;
  CUstream stream = nullptr;
  CUevent event = nullptr;
  CUdevice device = 0;
  CHECK(CU(cuMemAlloc)(&address, 1) == CUDA_ERROR_INVALID_CONTEXT);
  CHECK(CU(cuStreamCreate)(&stream, 0) == CUDA_ERROR_INVALID_CONTEXT);
  CHECK(CU(cuEventCreate)(&event, 0) == CUDA_ERROR_INVALID_CONTEXT);
  CHECK(CU(cuCtxGetDevice)(&device) == CUDA_ERROR_INVALID_CONTEXT);
  CHECK(CU(cuCtxSynchronize)() == CUDA_ERROR_INVALID_CONTEXT);
  CHECK(CU(cuCtxPopCurrent)(nullptr) == CUDA_ERROR_INVALID_CONTEXT);
}

TEST_CASE("the primary context is one for all, and is active while somebody has it") {
  init();
  REQUIRE_FALSE(active());
  CUcontext one = nullptr, two = nullptr;
  REQUIRE_CU(CU(cuDevicePrimaryCtxRetain)(&one, 0));
  CHECK(current() == nullptr);
  REQUIRE_CU(CU(cuDevicePrimaryCtxRetain)(&two, 0));
  CHECK(one == two);
  REQUIRE_CU(CU(cuDevicePrimaryCtxRelease)(0));
  CHECK(active());
  REQUIRE_CU(CU(cuDevicePrimaryCtxRelease)(0));
  CHECK_FALSE(active());
  CHECK(CU(cuDevicePrimaryCtxRelease)(0) == CUDA_ERROR_INVALID_CONTEXT);
}

TEST_CASE("a primary context that nobody has any more can't be used") {
  CUcontext context = nullptr;
  {
    const PrimaryContext retained;
    context = retained.get();
  }
  REQUIRE_CU(CU(cuCtxPushCurrent)(context));
  CUdeviceptr address = 0;
  CHECK(CU(cuMemAlloc)(&address, 1) == CUDA_ERROR_CONTEXT_IS_DESTROYED);
  REQUIRE_CU(CU(cuCtxPopCurrent)(nullptr));
}

TEST_CASE("cuDevicePrimaryCtxReset ends the context whoever has it") {
  init();
  CUcontext context = nullptr;
  REQUIRE_CU(CU(cuDevicePrimaryCtxRetain)(&context, 0));
  REQUIRE_CU(CU(cuDevicePrimaryCtxReset)(0));
  CHECK_FALSE(active());
}

TEST_CASE("flags of contexts are checked and told") {
  init();
  CUcontext context = nullptr;
  CHECK(CU(cuDevicePrimaryCtxSetFlags)(0, 0x100000) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuCtxCreate)(&context, nullptr, CU_CTX_SCHED_SPIN | CU_CTX_SCHED_YIELD, 0) == CUDA_ERROR_INVALID_VALUE);
  REQUIRE_CU(CU(cuDevicePrimaryCtxSetFlags)(0, CU_CTX_SCHED_BLOCKING_SYNC));
  unsigned flags = 0;
  int is_active = 0;
  REQUIRE_CU(CU(cuDevicePrimaryCtxGetState)(0, &flags, &is_active));
  CHECK((flags & CU_CTX_SCHED_MASK) == CU_CTX_SCHED_BLOCKING_SYNC);
  REQUIRE_CU(CU(cuDevicePrimaryCtxSetFlags)(0, 0));
}

TEST_CASE("contexts are a stack of the thread") {
  const auto one = create();
  const auto two = create();
  CHECK(current() == two);
  CUcontext popped = nullptr;
  REQUIRE_CU(CU(cuCtxPopCurrent)(&popped));
  CHECK(popped == two);
  CHECK(current() == one);
  REQUIRE_CU(CU(cuCtxPushCurrent)(two));
  REQUIRE_CU(CU(cuCtxSetCurrent)(one));
  CHECK(current() == one);
  REQUIRE_CU(CU(cuCtxSetCurrent)(nullptr));
  CHECK(current() == one);
  std::thread([] { CHECK(current() == nullptr); }).join();
  REQUIRE_CU(CU(cuCtxDestroy)(two));
  REQUIRE_CU(CU(cuCtxDestroy)(one));
  CHECK(current() == nullptr);
}

TEST_CASE("a context that was destroyed elsewhere stays current, and can't be used") {
  const auto context = create();
  std::thread([&] { CHECK(CU(cuCtxDestroy)(context) == CUDA_SUCCESS); }).join();
  CUdeviceptr address = 0;
  CHECK(CU(cuMemAlloc)(&address, 1) == CUDA_ERROR_CONTEXT_IS_DESTROYED);
  REQUIRE_CU(CU(cuCtxPopCurrent)(nullptr));
}

TEST_CASE("memory, streams and events end with their context") {
  const PrimaryContext other;
  const auto before = free_bytes();
  const auto context = create();
  CUdeviceptr address = 0;
  CUstream stream = nullptr;
  CUevent event = nullptr;
  REQUIRE_CU(CU(cuMemAlloc)(&address, 8 * mebibyte));
  REQUIRE_CU(CU(cuStreamCreate)(&stream, 0));
  REQUIRE_CU(CU(cuEventCreate)(&event, 0));
  REQUIRE_CU(CU(cuCtxDestroy)(context));
  CHECK(current() == other.get());
  CHECK(free_bytes() == before);
}

TEST_CASE("memory by cuMemCreate outlives contexts") {
  const auto context = create();
  const auto bytes = granularity();
  const Handle handle(bytes);
  Reservation addresses(bytes);
  addresses.map(handle, bytes);
  REQUIRE_CU(set_access(addresses.get(), bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
  REQUIRE_CU(CU(cuMemsetD8)(addresses.get(), 9, bytes));
  REQUIRE_CU(CU(cuCtxSynchronize)());
  REQUIRE_CU(CU(cuCtxDestroy)(context));
  const PrimaryContext other;
  CHECK(bytes_at(addresses.get(), 1)[0] == 9);
}

TEST_CASE("newer calls take a context, or the current one") {
  int version = 0;
  REQUIRE_CU(CU(cuDriverGetVersion)(&version));
  if (version < 13000) {
    WARN("this driver is older than CUDA 13.0");
    return;
  }
  const PrimaryContext context;
  CUdevice device = -1;
  REQUIRE_CU(CU(cuCtxGetDevice_v2)(&device, nullptr));
  CHECK(device == 0);
  REQUIRE_CU(CU(cuCtxGetDevice_v2)(&device, context.get()));
  CHECK(device == 0);
  CHECK(CU(cuCtxSynchronize_v2)(context.get()) == CUDA_SUCCESS);
  CUcontext of_stream = nullptr;
  auto green = reinterpret_cast<CUgreenCtx>(&device);
  REQUIRE_CU(CU(cuStreamGetCtx_v2)(nullptr, &of_stream, &green));
  CHECK(of_stream == context.get());
  CHECK(green == nullptr);
  void* function = nullptr;
  REQUIRE_CU(CU(cuGetProcAddress)("cuCtxSynchronize", &function, 13000, CU_GET_PROC_ADDRESS_DEFAULT, nullptr));
  CHECK(function == reinterpret_cast<void*>(CU(cuCtxSynchronize_v2)));
}

TEST_CASE("cuCtxDestroy is not for what isn't a context") {
  init();
  CHECK(CU(cuCtxDestroy)(nullptr) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("a broken context is whole again after a reset of its device") {
  Peer peer;
  REQUIRE(peer.code(Op::create, 2 * mebibyte) == 0);
  REQUIRE(peer.code(Op::set_access, CU_MEM_ACCESS_FLAGS_PROT_NONE) == 0);
  REQUIRE(peer.code(Op::launch, 0, 1) == CUDA_ERROR_ILLEGAL_ADDRESS);
  REQUIRE(peer.code(Op::allocate_more) == CUDA_ERROR_ILLEGAL_ADDRESS);
  // The manual promises this for cuDevicePrimaryCtxReset; for illegal addresses it also says that only a new process
  // helps. A driver may do either, so this looks only at who else is touched.
  const PrimaryContext context;
  CHECK(Memory(mebibyte).get() != 0);
  peer.kill();
}

TEST_CASE("peer access goes in one direction, once, between devices that can", "[2-gpus]") {
  REQUIRE(devices() >= 2);
  const PrimaryContext zero(0);
  const PrimaryContext one(1);
  int can = 0;
  REQUIRE_CU(CU(cuDeviceCanAccessPeer)(&can, 1, 0));
  if (can == 0) {
    CHECK(CU(cuCtxEnablePeerAccess)(zero.get(), 0) == CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
    return;
  }
  CHECK(CU(cuCtxEnablePeerAccess)(one.get(), 0) == CUDA_ERROR_INVALID_CONTEXT);
  CHECK(CU(cuCtxEnablePeerAccess)(zero.get(), 1) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuCtxDisablePeerAccess)(zero.get()) == CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
  REQUIRE_CU(CU(cuCtxEnablePeerAccess)(zero.get(), 0));
  CHECK(CU(cuCtxEnablePeerAccess)(zero.get(), 0) == CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
  REQUIRE_CU(CU(cuCtxDisablePeerAccess)(zero.get()));
}

TEST_CASE("a device is no peer of itself") {
  init();
  int can = -1;
  REQUIRE_CU(CU(cuDeviceCanAccessPeer)(&can, 0, 0));
  CHECK(can == 0);
}
