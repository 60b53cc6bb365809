// Compares our declarations of the CUDA driver with NVIDIA's cuda.h, when this is compiled: nothing runs. A
// static_assert that fails after an update of the toolkit wants somebody to read what has changed.
#include <cuda.h>
#include <cudaTypedefs.h>

#include <string_view>

#include <muster/gpu/driver_calls.hpp>
#include "same_abi.hpp"

namespace muster::gpu::cuda {
namespace {

using musterd::gpu::test::same_abi;

// ---- calls: the signature that their name and version stand for, and the symbol that the library exports ----

#define MUSTER_TEXT(token) #token
#define MUSTER_EXPANDED(macro) MUSTER_TEXT(macro)
#define MUSTER_CHECK(member, name, symbol, since, ...)                                                             \
  static_assert(same_abi<__VA_ARGS__, std::remove_pointer_t<PFN_##name##_v##since>>, #name " of version " #since); \
  static_assert(same_abi<__VA_ARGS__, decltype(::symbol)>, #symbol);                                               \
  static_assert(std::string_view(MUSTER_EXPANDED(name)) == #symbol, #name " is another symbol");
MUSTER_DRIVER_CALLS(MUSTER_CHECK)
static_assert(same_abi<GetProcAddress, std::remove_pointer_t<PFN_cuGetProcAddress_v12000>>);
static_assert(same_abi<GetProcAddress, decltype(::cuGetProcAddress_v2)>);

// ---- values ----

#define MUSTER_SAME(ours, theirs) static_assert(static_cast<int>(ours) == static_cast<int>(theirs), #theirs);

MUSTER_SAME(Status::success, CUDA_SUCCESS)
MUSTER_SAME(Status::invalid_value, CUDA_ERROR_INVALID_VALUE)
MUSTER_SAME(Status::out_of_memory, CUDA_ERROR_OUT_OF_MEMORY)
MUSTER_SAME(Status::not_initialized, CUDA_ERROR_NOT_INITIALIZED)
MUSTER_SAME(Status::deinitialized, CUDA_ERROR_DEINITIALIZED)
MUSTER_SAME(Status::stub_library, CUDA_ERROR_STUB_LIBRARY)
MUSTER_SAME(Status::device_unavailable, CUDA_ERROR_DEVICE_UNAVAILABLE)
MUSTER_SAME(Status::no_device, CUDA_ERROR_NO_DEVICE)
MUSTER_SAME(Status::invalid_device, CUDA_ERROR_INVALID_DEVICE)
MUSTER_SAME(Status::invalid_image, CUDA_ERROR_INVALID_IMAGE)
MUSTER_SAME(Status::invalid_context, CUDA_ERROR_INVALID_CONTEXT)
MUSTER_SAME(Status::map_failed, CUDA_ERROR_MAP_FAILED)
MUSTER_SAME(Status::no_binary_for_gpu, CUDA_ERROR_NO_BINARY_FOR_GPU)
MUSTER_SAME(Status::ecc_uncorrectable, CUDA_ERROR_ECC_UNCORRECTABLE)
MUSTER_SAME(Status::peer_access_unsupported, CUDA_ERROR_PEER_ACCESS_UNSUPPORTED)
MUSTER_SAME(Status::invalid_ptx, CUDA_ERROR_INVALID_PTX)
MUSTER_SAME(Status::nvlink_uncorrectable, CUDA_ERROR_NVLINK_UNCORRECTABLE)
MUSTER_SAME(Status::jit_compiler_not_found, CUDA_ERROR_JIT_COMPILER_NOT_FOUND)
MUSTER_SAME(Status::unsupported_ptx_version, CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
MUSTER_SAME(Status::contained, CUDA_ERROR_CONTAINED)
MUSTER_SAME(Status::operating_system, CUDA_ERROR_OPERATING_SYSTEM)
MUSTER_SAME(Status::invalid_handle, CUDA_ERROR_INVALID_HANDLE)
MUSTER_SAME(Status::not_found, CUDA_ERROR_NOT_FOUND)
MUSTER_SAME(Status::not_ready, CUDA_ERROR_NOT_READY)
MUSTER_SAME(Status::illegal_address, CUDA_ERROR_ILLEGAL_ADDRESS)
MUSTER_SAME(Status::launch_out_of_resources, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES)
MUSTER_SAME(Status::launch_timeout, CUDA_ERROR_LAUNCH_TIMEOUT)
MUSTER_SAME(Status::peer_access_already_enabled, CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED)
MUSTER_SAME(Status::primary_context_active, CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE)
MUSTER_SAME(Status::context_is_destroyed, CUDA_ERROR_CONTEXT_IS_DESTROYED)
MUSTER_SAME(Status::assertion, CUDA_ERROR_ASSERT)
MUSTER_SAME(Status::host_memory_already_registered, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED)
MUSTER_SAME(Status::host_memory_not_registered, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED)
MUSTER_SAME(Status::hardware_stack_error, CUDA_ERROR_HARDWARE_STACK_ERROR)
MUSTER_SAME(Status::illegal_instruction, CUDA_ERROR_ILLEGAL_INSTRUCTION)
MUSTER_SAME(Status::misaligned_address, CUDA_ERROR_MISALIGNED_ADDRESS)
MUSTER_SAME(Status::invalid_address_space, CUDA_ERROR_INVALID_ADDRESS_SPACE)
MUSTER_SAME(Status::invalid_pc, CUDA_ERROR_INVALID_PC)
MUSTER_SAME(Status::launch_failed, CUDA_ERROR_LAUNCH_FAILED)
MUSTER_SAME(Status::not_permitted, CUDA_ERROR_NOT_PERMITTED)
MUSTER_SAME(Status::not_supported, CUDA_ERROR_NOT_SUPPORTED)
MUSTER_SAME(Status::system_not_ready, CUDA_ERROR_SYSTEM_NOT_READY)
MUSTER_SAME(Status::system_driver_mismatch, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)
MUSTER_SAME(Status::compat_not_supported_on_device, CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE)
MUSTER_SAME(Status::mps_connection_failed, CUDA_ERROR_MPS_CONNECTION_FAILED)
MUSTER_SAME(Status::mps_rpc_failure, CUDA_ERROR_MPS_RPC_FAILURE)
MUSTER_SAME(Status::mps_server_not_ready, CUDA_ERROR_MPS_SERVER_NOT_READY)
MUSTER_SAME(Status::mps_client_terminated, CUDA_ERROR_MPS_CLIENT_TERMINATED)
MUSTER_SAME(Status::external_device, CUDA_ERROR_EXTERNAL_DEVICE)
MUSTER_SAME(Status::unknown, CUDA_ERROR_UNKNOWN)

MUSTER_SAME(DeviceAttribute::multiprocessor_count, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
MUSTER_SAME(DeviceAttribute::integrated, CU_DEVICE_ATTRIBUTE_INTEGRATED)
MUSTER_SAME(DeviceAttribute::compute_mode, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE)
MUSTER_SAME(DeviceAttribute::max_threads_per_multiprocessor, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)
MUSTER_SAME(DeviceAttribute::unified_addressing, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING)
MUSTER_SAME(DeviceAttribute::compute_capability_major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
MUSTER_SAME(DeviceAttribute::compute_capability_minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
MUSTER_SAME(DeviceAttribute::can_use_host_pointer_for_registered_memory,
            CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM)
MUSTER_SAME(DeviceAttribute::virtual_memory_management_supported,
            CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)
MUSTER_SAME(DeviceAttribute::posix_descriptor_handles_supported,
            CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED)
MUSTER_SAME(DeviceAttribute::pageable_memory_access_uses_host_page_tables,
            CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES)
MUSTER_SAME(DeviceAttribute::read_only_host_register_supported, CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED)
MUSTER_SAME(DeviceAttribute::ipc_supported, CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED)
MUSTER_SAME(DeviceAttribute::fabric_handles_supported, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED)

MUSTER_SAME(ComputeMode::shared, CU_COMPUTEMODE_DEFAULT)
MUSTER_SAME(ComputeMode::prohibited, CU_COMPUTEMODE_PROHIBITED)
MUSTER_SAME(ComputeMode::exclusive_process, CU_COMPUTEMODE_EXCLUSIVE_PROCESS)

MUSTER_SAME(AllocationType::pinned, CU_MEM_ALLOCATION_TYPE_PINNED)
MUSTER_SAME(LocationType::device, CU_MEM_LOCATION_TYPE_DEVICE)
MUSTER_SAME(HandleType::none, CU_MEM_HANDLE_TYPE_NONE)
MUSTER_SAME(HandleType::posix_descriptor, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
MUSTER_SAME(HandleType::fabric, CU_MEM_HANDLE_TYPE_FABRIC)
MUSTER_SAME(Access::none, CU_MEM_ACCESS_FLAGS_PROT_NONE)
MUSTER_SAME(Access::read, CU_MEM_ACCESS_FLAGS_PROT_READ)
MUSTER_SAME(Access::read_write, CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
MUSTER_SAME(Granularity::minimum, CU_MEM_ALLOC_GRANULARITY_MINIMUM)
MUSTER_SAME(Granularity::recommended, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)

MUSTER_SAME(PointerAttribute::context, CU_POINTER_ATTRIBUTE_CONTEXT)
MUSTER_SAME(PointerAttribute::memory_type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE)
MUSTER_SAME(PointerAttribute::device_pointer, CU_POINTER_ATTRIBUTE_DEVICE_POINTER)
MUSTER_SAME(PointerAttribute::host_pointer, CU_POINTER_ATTRIBUTE_HOST_POINTER)
MUSTER_SAME(PointerAttribute::sync_memory_operations, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS)
MUSTER_SAME(PointerAttribute::buffer_id, CU_POINTER_ATTRIBUTE_BUFFER_ID)
MUSTER_SAME(PointerAttribute::is_managed, CU_POINTER_ATTRIBUTE_IS_MANAGED)
MUSTER_SAME(PointerAttribute::device_ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
MUSTER_SAME(PointerAttribute::is_legacy_ipc_capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE)
MUSTER_SAME(PointerAttribute::range_start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR)
MUSTER_SAME(PointerAttribute::range_size, CU_POINTER_ATTRIBUTE_RANGE_SIZE)
MUSTER_SAME(PointerAttribute::mapped, CU_POINTER_ATTRIBUTE_MAPPED)
MUSTER_SAME(PointerAttribute::allowed_handle_types, CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES)
MUSTER_SAME(PointerAttribute::access_flags, CU_POINTER_ATTRIBUTE_ACCESS_FLAGS)
MUSTER_SAME(PointerAttribute::memory_pool, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE)

MUSTER_SAME(MemoryType::host, CU_MEMORYTYPE_HOST)
MUSTER_SAME(MemoryType::device, CU_MEMORYTYPE_DEVICE)
MUSTER_SAME(MemoryType::array, CU_MEMORYTYPE_ARRAY)
MUSTER_SAME(MemoryType::unified, CU_MEMORYTYPE_UNIFIED)

MUSTER_SAME(ipc_lazy_enable_peer_access, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)
MUSTER_SAME(context_blocking_sync, CU_CTX_SCHED_BLOCKING_SYNC)
MUSTER_SAME(stream_non_blocking, CU_STREAM_NON_BLOCKING)
MUSTER_SAME(event_blocking_sync, CU_EVENT_BLOCKING_SYNC)
MUSTER_SAME(event_disable_timing, CU_EVENT_DISABLE_TIMING)
MUSTER_SAME(event_interprocess, CU_EVENT_INTERPROCESS)
MUSTER_SAME(host_alloc_portable, CU_MEMHOSTALLOC_PORTABLE)
MUSTER_SAME(host_alloc_device_map, CU_MEMHOSTALLOC_DEVICEMAP)
MUSTER_SAME(host_register_portable, CU_MEMHOSTREGISTER_PORTABLE)
MUSTER_SAME(host_register_device_map, CU_MEMHOSTREGISTER_DEVICEMAP)
MUSTER_SAME(host_register_read_only, CU_MEMHOSTREGISTER_READ_ONLY)

MUSTER_SAME(FunctionAttribute::max_threads_per_block, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)
MUSTER_SAME(FunctionAttribute::shared_bytes, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
MUSTER_SAME(FunctionAttribute::local_bytes, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)
MUSTER_SAME(FunctionAttribute::registers, CU_FUNC_ATTRIBUTE_NUM_REGS)
MUSTER_SAME(FunctionAttribute::max_dynamic_shared_bytes, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
MUSTER_SAME(JitOption::info_log, CU_JIT_INFO_LOG_BUFFER)
MUSTER_SAME(JitOption::info_log_bytes, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES)
MUSTER_SAME(JitOption::error_log, CU_JIT_ERROR_LOG_BUFFER)
MUSTER_SAME(JitOption::error_log_bytes, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)

MUSTER_SAME(SymbolQuery::found, CU_GET_PROC_ADDRESS_SUCCESS)
MUSTER_SAME(SymbolQuery::not_found, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND)
MUSTER_SAME(SymbolQuery::version_not_sufficient, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT)

// ---- layouts ----

#define MUSTER_SAME_FIELD(ours, field, theirs, their_field)                                                         \
  static_assert(                                                                                                    \
      offsetof(ours, field) == offsetof(theirs, their_field) && sizeof(ours::field) == sizeof(theirs::their_field), \
      #theirs "." #their_field);

static_assert(same_abi<Uuid, CUuuid>);
static_assert(same_abi<MemoryHandle, CUipcMemHandle>);
static_assert(same_abi<EventHandle, CUipcEventHandle>);
static_assert(same_abi<Location, CUmemLocation>);
MUSTER_SAME_FIELD(Location, type, CUmemLocation, type)
MUSTER_SAME_FIELD(Location, id, CUmemLocation, id)
static_assert(same_abi<AllocationProperties, CUmemAllocationProp>);
MUSTER_SAME_FIELD(AllocationProperties, type, CUmemAllocationProp, type)
MUSTER_SAME_FIELD(AllocationProperties, handle_types, CUmemAllocationProp, requestedHandleTypes)
MUSTER_SAME_FIELD(AllocationProperties, location, CUmemAllocationProp, location)
MUSTER_SAME_FIELD(AllocationProperties, win32_metadata, CUmemAllocationProp, win32HandleMetaData)
MUSTER_SAME_FIELD(AllocationProperties, flags, CUmemAllocationProp, allocFlags)
MUSTER_SAME_FIELD(AllocationProperties, flags.compression, CUmemAllocationProp, allocFlags.compressionType)
MUSTER_SAME_FIELD(AllocationProperties, flags.gpu_direct_rdma_capable, CUmemAllocationProp,
                  allocFlags.gpuDirectRDMACapable)
MUSTER_SAME_FIELD(AllocationProperties, flags.usage, CUmemAllocationProp, allocFlags.usage)
static_assert(same_abi<AccessDescription, CUmemAccessDesc>);
MUSTER_SAME_FIELD(AccessDescription, location, CUmemAccessDesc, location)
MUSTER_SAME_FIELD(AccessDescription, access, CUmemAccessDesc, flags)

}  // namespace
}  // namespace muster::gpu::cuda
