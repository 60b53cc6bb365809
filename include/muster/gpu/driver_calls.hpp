// Every call of the CUDA driver that we make, once. The table of driver.hpp, its search for symbols, the comparison
// with NVIDIA's cuda.h and the check of README.md are made from this list.
//
// call(our name, the manual's name, the symbol that the library exports, the version since when the call has this
//      signature, the signature)
// The version is in NVIDIA's numbers: 11040 is CUDA 11.4. It is what cuGetProcAddress wants to know, and with the
// manual's name it means one symbol.
#pragma once

#include <muster/gpu/cuda_abi.hpp>

// clang-format off
#define MUSTER_DRIVER_CALLS(call) \
  call(init, cuInit, cuInit, 2000, Status(unsigned flags)) \
  call(driver_get_version, cuDriverGetVersion, cuDriverGetVersion, 2020, Status(int* version)) \
  call(get_error_name, cuGetErrorName, cuGetErrorName, 6000, Status(Status status, const char** name)) \
  call(get_error_string, cuGetErrorString, cuGetErrorString, 6000, Status(Status status, const char** text)) \
  /* devices */ \
  call(device_get_count, cuDeviceGetCount, cuDeviceGetCount, 2000, Status(int* count)) \
  call(device_get, cuDeviceGet, cuDeviceGet, 2000, Status(Device* device, int ordinal)) \
  call(device_get_name, cuDeviceGetName, cuDeviceGetName, 2000, Status(char* name, int bytes, Device device)) \
  call(device_get_uuid, cuDeviceGetUuid, cuDeviceGetUuid_v2, 11040, Status(Uuid* uuid, Device device)) \
  call(device_total_mem, cuDeviceTotalMem, cuDeviceTotalMem_v2, 3020, Status(std::size_t* bytes, Device device)) \
  call(device_get_attribute, cuDeviceGetAttribute, cuDeviceGetAttribute, 2000, \
       Status(int* value, DeviceAttribute attribute, Device device)) \
  call(device_get_pci_bus_id, cuDeviceGetPCIBusId, cuDeviceGetPCIBusId, 4010, \
       Status(char* id, int bytes, Device device)) \
  call(device_can_access_peer, cuDeviceCanAccessPeer, cuDeviceCanAccessPeer, 4000, \
       Status(int* can, Device device, Device peer)) \
  /* contexts */ \
  call(device_primary_ctx_set_flags, cuDevicePrimaryCtxSetFlags, cuDevicePrimaryCtxSetFlags_v2, 11000, \
       Status(Device device, unsigned flags)) \
  call(device_primary_ctx_retain, cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, 7000, \
       Status(Context* context, Device device)) \
  call(device_primary_ctx_release, cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, 11000, \
       Status(Device device)) \
  call(device_primary_ctx_get_state, cuDevicePrimaryCtxGetState, cuDevicePrimaryCtxGetState, 7000, \
       Status(Device device, unsigned* flags, int* active)) \
  call(ctx_set_current, cuCtxSetCurrent, cuCtxSetCurrent, 4000, Status(Context context)) \
  call(ctx_get_current, cuCtxGetCurrent, cuCtxGetCurrent, 4000, Status(Context* context)) \
  call(ctx_synchronize, cuCtxSynchronize, cuCtxSynchronize, 2000, Status()) \
  call(ctx_enable_peer_access, cuCtxEnablePeerAccess, cuCtxEnablePeerAccess, 4000, \
       Status(Context peer, unsigned flags)) \
  /* memory in steps */ \
  call(mem_get_allocation_granularity, cuMemGetAllocationGranularity, cuMemGetAllocationGranularity, 10020, \
       Status(std::size_t* bytes, const AllocationProperties* properties, Granularity which)) \
  call(mem_create, cuMemCreate, cuMemCreate, 10020, \
       Status(Allocation* allocation, std::size_t bytes, const AllocationProperties* properties, \
              unsigned long long flags)) \
  call(mem_release, cuMemRelease, cuMemRelease, 10020, Status(Allocation allocation)) \
  call(mem_export_to_shareable_handle, cuMemExportToShareableHandle, cuMemExportToShareableHandle, 10020, \
       Status(void* handle, Allocation allocation, HandleType type, unsigned long long flags)) \
  call(mem_import_from_shareable_handle, cuMemImportFromShareableHandle, cuMemImportFromShareableHandle, 10020, \
       Status(Allocation* allocation, void* handle, HandleType type)) \
  call(mem_get_allocation_properties, cuMemGetAllocationPropertiesFromHandle, \
       cuMemGetAllocationPropertiesFromHandle, 10020, \
       Status(AllocationProperties* properties, Allocation allocation)) \
  call(mem_retain_allocation_handle, cuMemRetainAllocationHandle, cuMemRetainAllocationHandle, 11000, \
       Status(Allocation* allocation, void* address)) \
  call(mem_address_reserve, cuMemAddressReserve, cuMemAddressReserve, 10020, \
       Status(Address* address, std::size_t bytes, std::size_t alignment, Address wanted, unsigned long long flags)) \
  call(mem_address_free, cuMemAddressFree, cuMemAddressFree, 10020, Status(Address address, std::size_t bytes)) \
  call(mem_map, cuMemMap, cuMemMap, 10020, \
       Status(Address address, std::size_t bytes, std::size_t offset, Allocation allocation, \
              unsigned long long flags)) \
  call(mem_unmap, cuMemUnmap, cuMemUnmap, 10020, Status(Address address, std::size_t bytes)) \
  call(mem_set_access, cuMemSetAccess, cuMemSetAccess, 10020, \
       Status(Address address, std::size_t bytes, const AccessDescription* descriptions, std::size_t count)) \
  call(mem_get_access, cuMemGetAccess, cuMemGetAccess, 10020, \
       Status(unsigned long long* access, const Location* location, Address address)) \
  /* memory in one call, and that of other processes */ \
  call(mem_get_info, cuMemGetInfo, cuMemGetInfo_v2, 3020, Status(std::size_t* unused, std::size_t* total)) \
  call(mem_alloc, cuMemAlloc, cuMemAlloc_v2, 3020, Status(Address* address, std::size_t bytes)) \
  call(mem_free, cuMemFree, cuMemFree_v2, 3020, Status(Address address)) \
  call(mem_get_address_range, cuMemGetAddressRange, cuMemGetAddressRange_v2, 3020, \
       Status(Address* base, std::size_t* bytes, Address address)) \
  call(pointer_get_attribute, cuPointerGetAttribute, cuPointerGetAttribute, 4000, \
       Status(void* value, PointerAttribute attribute, Address address)) \
  call(pointer_get_attributes, cuPointerGetAttributes, cuPointerGetAttributes, 7000, \
       Status(unsigned count, PointerAttribute* attributes, void** values, Address address)) \
  call(ipc_get_mem_handle, cuIpcGetMemHandle, cuIpcGetMemHandle, 4010, \
       Status(MemoryHandle* handle, Address address)) \
  call(ipc_open_mem_handle, cuIpcOpenMemHandle, cuIpcOpenMemHandle_v2, 11000, \
       Status(Address* address, MemoryHandle handle, unsigned flags)) \
  call(ipc_close_mem_handle, cuIpcCloseMemHandle, cuIpcCloseMemHandle, 4010, Status(Address address)) \
  call(ipc_get_event_handle, cuIpcGetEventHandle, cuIpcGetEventHandle, 4010, \
       Status(EventHandle* handle, Event event)) \
  call(ipc_open_event_handle, cuIpcOpenEventHandle, cuIpcOpenEventHandle, 4010, \
       Status(Event* event, EventHandle handle)) \
  /* memory of the host */ \
  call(mem_host_alloc, cuMemHostAlloc, cuMemHostAlloc, 2020, \
       Status(void** address, std::size_t bytes, unsigned flags)) \
  call(mem_free_host, cuMemFreeHost, cuMemFreeHost, 2000, Status(void* address)) \
  call(mem_host_register, cuMemHostRegister, cuMemHostRegister_v2, 6050, \
       Status(void* address, std::size_t bytes, unsigned flags)) \
  call(mem_host_unregister, cuMemHostUnregister, cuMemHostUnregister, 4000, Status(void* address)) \
  call(mem_host_get_device_pointer, cuMemHostGetDevicePointer, cuMemHostGetDevicePointer_v2, 3020, \
       Status(Address* address, void* host, unsigned flags)) \
  /* streams and events */ \
  call(stream_create, cuStreamCreate, cuStreamCreate, 2000, Status(Stream* stream, unsigned flags)) \
  call(stream_create_with_priority, cuStreamCreateWithPriority, cuStreamCreateWithPriority, 5050, \
       Status(Stream* stream, unsigned flags, int priority)) \
  call(stream_destroy, cuStreamDestroy, cuStreamDestroy_v2, 4000, Status(Stream stream)) \
  call(stream_query, cuStreamQuery, cuStreamQuery, 2000, Status(Stream stream)) \
  call(stream_synchronize, cuStreamSynchronize, cuStreamSynchronize, 2000, Status(Stream stream)) \
  call(stream_wait_event, cuStreamWaitEvent, cuStreamWaitEvent, 3020, \
       Status(Stream stream, Event event, unsigned flags)) \
  call(launch_host_func, cuLaunchHostFunc, cuLaunchHostFunc, 10000, \
       Status(Stream stream, HostFunction function, void* argument)) \
  call(event_create, cuEventCreate, cuEventCreate, 2000, Status(Event* event, unsigned flags)) \
  call(event_record, cuEventRecord, cuEventRecord, 2000, Status(Event event, Stream stream)) \
  call(event_query, cuEventQuery, cuEventQuery, 2000, Status(Event event)) \
  call(event_synchronize, cuEventSynchronize, cuEventSynchronize, 2000, Status(Event event)) \
  call(event_destroy, cuEventDestroy, cuEventDestroy_v2, 4000, Status(Event event)) \
  /* copies */ \
  call(memcpy_async, cuMemcpyAsync, cuMemcpyAsync, 4000, \
       Status(Address to, Address from, std::size_t bytes, Stream stream)) \
  call(memcpy_peer_async, cuMemcpyPeerAsync, cuMemcpyPeerAsync, 4000, \
       Status(Address to, Context to_context, Address from, Context from_context, std::size_t bytes, \
              Stream stream)) \
  call(memcpy_dtod_async, cuMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2, 3020, \
       Status(Address to, Address from, std::size_t bytes, Stream stream)) \
  call(memcpy_htod_async, cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, 3020, \
       Status(Address to, const void* from, std::size_t bytes, Stream stream)) \
  call(memcpy_dtoh_async, cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, 3020, \
       Status(void* to, Address from, std::size_t bytes, Stream stream)) \
  call(memset_d8_async, cuMemsetD8Async, cuMemsetD8Async, 3020, \
       Status(Address to, unsigned char value, std::size_t count, Stream stream)) \
  call(memset_d32_async, cuMemsetD32Async, cuMemsetD32Async, 3020, \
       Status(Address to, unsigned value, std::size_t count, Stream stream)) \
  /* kernels */ \
  call(module_load_data_ex, cuModuleLoadDataEx, cuModuleLoadDataEx, 2010, \
       Status(Module* module, const void* image, unsigned options, JitOption* names, void** values)) \
  call(module_unload, cuModuleUnload, cuModuleUnload, 2000, Status(Module module)) \
  call(module_get_function, cuModuleGetFunction, cuModuleGetFunction, 2000, \
       Status(Function* function, Module module, const char* name)) \
  call(func_get_attribute, cuFuncGetAttribute, cuFuncGetAttribute, 2020, \
       Status(int* value, FunctionAttribute attribute, Function function)) \
  call(func_set_attribute, cuFuncSetAttribute, cuFuncSetAttribute, 9000, \
       Status(Function function, FunctionAttribute attribute, int value)) \
  call(occupancy_max_active_blocks, cuOccupancyMaxActiveBlocksPerMultiprocessor, \
       cuOccupancyMaxActiveBlocksPerMultiprocessor, 6050, \
       Status(int* blocks, Function function, int threads, std::size_t dynamic_shared_bytes)) \
  call(launch_kernel, cuLaunchKernel, cuLaunchKernel, 4000, \
       Status(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, \
              unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream, void** arguments, \
              void** extra))
// clang-format on

namespace muster::gpu::cuda {

/// cuGetProcAddress since CUDA 12.0. It is not in the list: it is what the others are found with.
using GetProcAddress = Status(const char* name, void** function, int version, std::uint64_t flags, SymbolQuery* query);

}  // namespace muster::gpu::cuda
