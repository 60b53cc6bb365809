// CUDA Driver API, 6.2 to 6.5: errors, initialization, versions, devices; and "Driver Entry Point Access".
#include <cstring>
#include <sstream>
#include <string>

#include "gpu.hpp"
#include "peer.hpp"

using namespace conformance;

namespace {

constexpr const char* calls = R"(
cuInit cuDriverGetVersion cuGetErrorName cuGetErrorString cuDeviceGetCount cuDeviceGet cuDeviceGetName
cuDeviceGetUuid cuDeviceGetAttribute cuDeviceTotalMem cuDeviceGetPCIBusId cuDeviceGetByPCIBusId
cuDeviceCanAccessPeer cuCtxEnablePeerAccess cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease
cuDevicePrimaryCtxGetState cuDevicePrimaryCtxSetFlags cuDevicePrimaryCtxReset cuCtxCreate cuCtxDestroy
cuCtxSetCurrent cuCtxGetCurrent cuCtxPushCurrent cuCtxPopCurrent cuCtxGetDevice cuCtxSynchronize cuMemCreate
cuMemRelease cuMemExportToShareableHandle cuMemImportFromShareableHandle cuMemAddressReserve cuMemAddressFree
cuMemMap cuMemUnmap cuMemSetAccess cuMemGetAccess cuMemGetAllocationGranularity
cuMemGetAllocationPropertiesFromHandle cuMemRetainAllocationHandle cuMemAlloc cuMemFree cuMemAllocAsync
cuMemFreeAsync cuDeviceGetDefaultMemPool cuMemPoolGetAttribute cuMemPoolSetAttribute cuMemGetInfo
cuMemGetAddressRange cuPointerGetAttribute cuPointerGetAttributes cuIpcGetMemHandle cuIpcOpenMemHandle
cuIpcCloseMemHandle cuIpcGetEventHandle cuIpcOpenEventHandle cuStreamCreate cuStreamCreateWithPriority
cuStreamDestroy cuStreamSynchronize cuStreamQuery cuStreamWaitEvent cuStreamGetCtx cuLaunchHostFunc cuEventCreate
cuEventDestroy cuEventRecord cuEventQuery cuEventSynchronize cuEventElapsedTime cuMemcpy cuMemcpyAsync cuMemcpyHtoD
cuMemcpyDtoH cuMemcpyDtoD cuMemcpyHtoDAsync cuMemcpyDtoHAsync cuMemcpyDtoDAsync cuMemcpyPeerAsync cuMemsetD8
cuMemsetD16 cuMemsetD32 cuMemsetD8Async cuMemsetD16Async cuMemsetD32Async cuMemHostAlloc cuMemFreeHost
cuMemHostRegister cuMemHostUnregister cuMemHostGetDevicePointer cuMemHostGetFlags cuModuleLoadData
cuModuleLoadDataEx cuModuleUnload cuModuleGetFunction cuModuleGetGlobal cuLibraryLoadData cuLibraryUnload
cuLibraryGetKernel cuKernelGetFunction cuFuncGetAttribute cuFuncSetAttribute
cuOccupancyMaxActiveBlocksPerMultiprocessor cuLaunchKernel cuLaunchKernelEx cuGetProcAddress
)";

}  // namespace

TEST_CASE("nothing works before cuInit, but the driver's version") {
  Peer peer(-1);
  for (std::uint64_t number = 0; number < 6; ++number) {
    CAPTURE(number);
    CHECK(peer.code(Op::uninitialized, number) == CUDA_ERROR_NOT_INITIALIZED);
  }
  int version = 0;
  CHECK(CU(cuDriverGetVersion)(&version) == CUDA_SUCCESS);
  CHECK(version >= 12000);
}

TEST_CASE("cuInit takes no flags, and may be called again") {
  CHECK(CU(cuInit)(1) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuInit)(0) == CUDA_SUCCESS);
  CHECK(CU(cuInit)(0) == CUDA_SUCCESS);
}

TEST_CASE("CUDA doesn't work in the child of a fork") {
  Peer peer;
  CHECK(peer.code(Op::fork_and_count) == CUDA_ERROR_NOT_INITIALIZED);
  CHECK(peer.ask(Op::count_devices).value >= 1);
}

TEST_CASE("a device that isn't there is CUDA_ERROR_INVALID_DEVICE") {
  const int number = devices();
  CUdevice device = 0;
  CUcontext context = nullptr;
  int value = 0;
  CHECK(CU(cuDeviceGet)(&device, number) == CUDA_ERROR_INVALID_DEVICE);
  CHECK(CU(cuDeviceGet)(&device, -1) == CUDA_ERROR_INVALID_DEVICE);
  CHECK(CU(cuDevicePrimaryCtxRetain)(&context, number) == CUDA_ERROR_INVALID_DEVICE);
  CHECK(CU(cuDeviceGetAttribute)(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, number) == CUDA_ERROR_INVALID_DEVICE);
}

TEST_CASE("null results are refused") {
  init();
  CHECK(CU(cuDeviceGetCount)(nullptr) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuDeviceGet)(nullptr, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuDriverGetVersion)(nullptr) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("a device is found by its PCI address, which no other device has") {
  std::string before;
  for (int device = 0; device < devices(); ++device) {
    char text[32] = {};
    REQUIRE_CU(CU(cuDeviceGetPCIBusId)(text, sizeof(text), device));
    CHECK(text != before);
    before = text;
    CUdevice found = -1;
    REQUIRE_CU(CU(cuDeviceGetByPCIBusId)(&found, text));
    CHECK(found == device);
  }
}

TEST_CASE("devices have names and UUIDs of their own") {
  CUuuid before{};
  for (int device = 0; device < devices(); ++device) {
    char name[4] = {'x', 'x', 'x', 'x'};
    REQUIRE_CU(CU(cuDeviceGetName)(name, sizeof(name), device));
    CHECK(std::strlen(name) == 3);
    CUuuid uuid{};
    REQUIRE_CU(CU(cuDeviceGetUuid)(&uuid, device));
    CHECK(std::memcmp(uuid.bytes, before.bytes, sizeof(uuid.bytes)) != 0);
    before = uuid;
  }
}

TEST_CASE("a device tells what it can") {
  init();
  const auto attribute = [](CUdevice_attribute name) {
    int value = -1;
    REQUIRE_CU(CU(cuDeviceGetAttribute)(&value, name, 0));
    return value;
  };
  CHECK(attribute(CU_DEVICE_ATTRIBUTE_WARP_SIZE) == 32);
  CHECK(attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) >= 7);
  CHECK(attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) > 0);
  CHECK(attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK) == 1024);
  CHECK(attribute(CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING) == 1);
  CHECK(attribute(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) == 1);
  CHECK(attribute(CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED) == 1);
  int value = 0;
  CHECK(CU(cuDeviceGetAttribute)(&value, static_cast<CUdevice_attribute>(0), 0) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("all memory of a device is its total") {
  const PrimaryContext context;
  std::size_t of_device = 0, free = 0, total = 0;
  REQUIRE_CU(CU(cuDeviceTotalMem)(&of_device, 0));
  REQUIRE_CU(CU(cuMemGetInfo)(&free, &total));
  CHECK(total == of_device);
  CHECK(free <= total);
}

TEST_CASE("errors have names") {
  const char* text = nullptr;
  REQUIRE_CU(CU(cuGetErrorName)(CUDA_ERROR_OUT_OF_MEMORY, &text));
  CHECK(std::string(text) == "CUDA_ERROR_OUT_OF_MEMORY");
  REQUIRE_CU(CU(cuGetErrorString)(CUDA_ERROR_OUT_OF_MEMORY, &text));
  CHECK(std::string(text) != "");
  CHECK(CU(cuGetErrorName)(static_cast<CUresult>(998), &text) == CUDA_ERROR_INVALID_VALUE);
  CHECK(text == nullptr);
}

TEST_CASE("cuGetProcAddress gives the function that a version of CUDA has") {
  init();
  int version = 0;
  REQUIRE_CU(CU(cuDriverGetVersion)(&version));
  void* function = nullptr;
  CUdriverProcAddressQueryResult status{};
  const auto ask = [&](const char* name, int wanted) {
    return CU(cuGetProcAddress)(name, &function, wanted, CU_GET_PROC_ADDRESS_DEFAULT, &status);
  };
  REQUIRE_CU(ask("cuMemAlloc", 12000));
  CHECK(function == reinterpret_cast<void*>(CU(cuMemAlloc)));
  CHECK(status == CU_GET_PROC_ADDRESS_SUCCESS);
  REQUIRE_CU(ask("cuMemCreate", 10000));
  CHECK(function == nullptr);
  CHECK(status == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
  REQUIRE_CU(ask("cuNoSuchCall", 12000));
  CHECK(function == nullptr);
  CHECK(status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
  CHECK(ask("cuMemAlloc", version + 1000) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("every call that Muster may make is found by its name") {
  init();
  int version = 0;
  REQUIRE_CU(CU(cuDriverGetVersion)(&version));
  std::istringstream names(calls);
  for (std::string name; names >> name;) {
    CAPTURE(name);
    void* function = nullptr;
    CHECK(CU(cuGetProcAddress)(name.c_str(), &function, version, CU_GET_PROC_ADDRESS_DEFAULT, nullptr) == CUDA_SUCCESS);
    CHECK(function != nullptr);
  }
}

TEST_CASE("calls are exported in the versions that cuda.h names") {
  for (const char* symbol :
       {"cuMemAlloc_v2",        "cuMemFree_v2",          "cuMemGetInfo_v2",       "cuMemcpyHtoD_v2",
        "cuMemcpyDtoHAsync_v2", "cuMemsetD32_v2",        "cuMemHostRegister_v2",  "cuCtxCreate_v2",
        "cuCtxCreate_v4",       "cuCtxDestroy_v2",       "cuCtxPushCurrent_v2",   "cuDevicePrimaryCtxRelease_v2",
        "cuDeviceGetUuid_v2",   "cuDeviceTotalMem_v2",   "cuStreamDestroy_v2",    "cuEventDestroy_v2",
        "cuEventElapsedTime",   "cuEventElapsedTime_v2", "cuIpcOpenMemHandle_v2", "cuModuleGetGlobal_v2",
        "cuGetProcAddress_v2"}) {
    CAPTURE(symbol);
    CHECK(::dlsym(driver_library(), symbol) != nullptr);
  }
}
