// CUDA Driver API, 6.2 Error Handling, 6.3 Initialization, 6.4 Version Management, 6.5 Device Management.
#include <pthread.h>

#include <array>
#include <cstdio>
#include <cstring>

#include "driver.hpp"
#include "errors.hpp"

using namespace fake_gpu;

namespace {

void handle_forks() {
  ::pthread_atfork([] { driver().mutex.lock(); }, [] { driver().mutex.unlock(); },
                   [] {
                     driver().mutex.unlock();
                     driver().forked = driver().initialized;
                     Physical::leave_all();
                     leave_book();
                   });
}

CUuuid uuid_of(int physical) {
  CUuuid uuid{};
  std::snprintf(uuid.bytes, sizeof(uuid.bytes), "fake-gpu-%06d", physical);
  return uuid;
}

int bus_of(int physical) { return physical + 1; }

struct Attribute {
  CUdevice_attribute name;
  int value;
};

/// What all of these devices have in common: the values of an H100.
constexpr Attribute common_attributes[] = {
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 2147483647},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 48 << 10},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 227 << 10},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 228 << 10},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 32},
    {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132},
    {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
    {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536},
    {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1000000},
    {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1000000},
    {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120},
    {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 50 << 20},
    {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
    {CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES, 0},
    {CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1},
    {CU_DEVICE_ATTRIBUTE_ECC_ENABLED, 1},
    {CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1},
    {CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512},
    {CU_DEVICE_ATTRIBUTE_MAX_PITCH, 2147483647},
};

int attribute_of(CUdevice_attribute attribute, const DeviceSettings& device) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return device.compute_major;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return device.compute_minor;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE: return device.compute_mode;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: return bus_of(device.physical);
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED: return driver().settings.fabric ? 1 : 0;
    case CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED: return driver().settings.read_only_registration ? 1 : 0;
    default: break;
  }
  for (const auto& common : common_attributes)
    if (common.name == attribute) return common.value;
  return 0;
}

}  // namespace

extern "C" {

// 6.2, cuGetErrorName, cuGetErrorString: an unknown code is CUDA_ERROR_INVALID_VALUE, and the text is null.
CUresult CUDAAPI cuGetErrorName(CUresult error, const char** text) {
  if (text == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *text = name_of(error);
  return *text == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult CUDAAPI cuGetErrorString(CUresult error, const char** text) {
  if (text == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *text = text_of(error);
  return *text == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

// 6.3, cuInit: must be called before all other calls; flags must be 0. It doesn't work in the child of a fork.
CUresult CUDAAPI cuInit(unsigned int flags) {
  return call(__func__, Need::nothing, [&](Call&) {
    require_value(flags == 0);
    if (driver().initialized) return;
    driver().settings = read_settings();
    const auto devices = driver().settings.devices.size();
    require(devices > 0, CUDA_ERROR_NO_DEVICE);
    for (std::size_t ordinal = 0; ordinal < devices; ++ordinal)
      driver().primaries.push_back(std::make_unique<Context>(static_cast<int>(ordinal), true, 0U));
    open_book();
    handle_forks();
    driver().initialized = true;
  });
}

// 6.4, cuDriverGetVersion: works without cuInit.
CUresult CUDAAPI cuDriverGetVersion(int* version) {
  return call(__func__, Need::nothing, [&](Call&) {
    require_value(version != nullptr);
    *version = driver().initialized ? driver().settings.driver_version : read_settings().driver_version;
  });
}

// 6.5, cuDeviceGetCount
CUresult CUDAAPI cuDeviceGetCount(int* number) {
  return call(__func__, Need::init, [&](Call&) {
    require_value(number != nullptr);
    *number = static_cast<int>(driver().settings.devices.size());
  });
}

// 6.5, cuDeviceGet: ordinals go from 0 to cuDeviceGetCount() - 1.
CUresult CUDAAPI cuDeviceGet(CUdevice* device, int ordinal) {
  return call(__func__, Need::init, [&](Call& c) {
    require_value(device != nullptr);
    driver().require_device(ordinal);
    c.on(ordinal);
    *device = ordinal;
  });
}

// 6.5, cuDeviceGetName: at most `length` bytes, with the zero at the end.
CUresult CUDAAPI cuDeviceGetName(char* name, int length, CUdevice device) {
  return call(__func__, Need::init, [&](Call& c) {
    require_value(name != nullptr && length > 0);
    driver().require_device(device);
    c.on(device);
    std::snprintf(name, static_cast<std::size_t>(length), "%s", driver().device(device).name.c_str());
  });
}

// 6.5, cuDeviceGetUuid_v2
CUresult CUDAAPI cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  return call(__func__, Need::init, [&](Call& c) {
    require_value(uuid != nullptr);
    driver().require_device(device);
    c.on(device);
    *uuid = uuid_of(driver().physical(device));
  });
}

// 6.5, cuDeviceGetAttribute
CUresult CUDAAPI cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  return call(__func__, Need::init, [&](Call& c) {
    require_value(value != nullptr && attribute > 0 && attribute < CU_DEVICE_ATTRIBUTE_MAX);
    driver().require_device(device);
    c.on(device);
    *value = attribute_of(attribute, driver().device(device));
  });
}

// 6.5, cuDeviceTotalMem
CUresult CUDAAPI cuDeviceTotalMem(size_t* bytes, CUdevice device) {
  return call(__func__, Need::init, [&](Call& c) {
    require_value(bytes != nullptr);
    driver().require_device(device);
    c.on(device);
    *bytes = driver().device(device).bytes;
  });
}

// 6.5, cuDeviceGetPCIBusId: [domain]:[bus]:[device].[function]; 13 characters with the zero at the end.
CUresult CUDAAPI cuDeviceGetPCIBusId(char* text, int length, CUdevice device) {
  return call(__func__, Need::init, [&](Call& c) {
    require_value(text != nullptr && length > 0);
    driver().require_device(device);
    c.on(device);
    std::snprintf(text, static_cast<std::size_t>(length), "0000:%02X:00.0", bus_of(driver().physical(device)));
  });
}

// 6.5, cuDeviceGetByPCIBusId
CUresult CUDAAPI cuDeviceGetByPCIBusId(CUdevice* device, const char* text) {
  return call(__func__, Need::init, [&](Call&) {
    require_value(device != nullptr && text != nullptr);
    unsigned domain = 0, bus = 0, slot = 0, function = 0;
    if (std::sscanf(text, "%x:%x:%x.%x", &domain, &bus, &slot, &function) < 2) throw Failure{CUDA_ERROR_INVALID_VALUE};
    const int ordinal = domain == 0 && slot == 0 ? driver().ordinal(static_cast<int>(bus) - 1) : -1;
    driver().require_device(ordinal);
    *device = ordinal;
  });
}

// "Peer Context Memory Access", cuDeviceCanAccessPeer
CUresult CUDAAPI cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
  return call(__func__, Need::init, [&](Call& c) {
    require_value(can != nullptr);
    driver().require_device(device);
    driver().require_device(peer);
    c.on(device);
    *can = driver().can_access_peer(device, peer) ? 1 : 0;
  });
}

// "Peer Context Memory Access", cuDeviceGetP2PAttribute: the devices must differ.
CUresult CUDAAPI cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attribute, CUdevice from, CUdevice to) {
  return call(__func__, Need::init, [&](Call&) {
    require_value(value != nullptr);
    driver().require_device(from);
    driver().require_device(to);
    require(from != to, CUDA_ERROR_INVALID_DEVICE);
    const bool access = attribute == CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED ||
                        attribute == CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED;
    *value = access && driver().can_access_peer(from, to) ? 1 : 0;
  });
}

}  // extern "C"
