// The part of the CUDA driver's binary interface that we call, in our own declarations: the product is built without a
// CUDA toolkit. tests/gpu/abi_test.cpp compares every value, size, offset and signature with NVIDIA's cuda.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace muster::gpu::cuda {

/// What a call returned (CUresult). The library may return values that are not listed here.
enum class Status : int {
  success = 0,
  invalid_value = 1,
  out_of_memory = 2,
  not_initialized = 3,
  deinitialized = 4,
  stub_library = 34,
  device_unavailable = 46,
  no_device = 100,
  invalid_device = 101,
  invalid_image = 200,
  invalid_context = 201,
  map_failed = 205,
  no_binary_for_gpu = 209,
  ecc_uncorrectable = 214,
  peer_access_unsupported = 217,
  invalid_ptx = 218,
  nvlink_uncorrectable = 220,
  jit_compiler_not_found = 221,
  unsupported_ptx_version = 222,
  contained = 226,
  operating_system = 304,
  invalid_handle = 400,
  not_found = 500,
  not_ready = 600,
  illegal_address = 700,
  launch_out_of_resources = 701,
  launch_timeout = 702,
  peer_access_already_enabled = 704,
  primary_context_active = 708,
  context_is_destroyed = 709,
  assertion = 710,
  host_memory_already_registered = 712,
  host_memory_not_registered = 713,
  hardware_stack_error = 714,
  illegal_instruction = 715,
  misaligned_address = 716,
  invalid_address_space = 717,
  invalid_pc = 718,
  launch_failed = 719,
  not_permitted = 800,
  not_supported = 801,
  system_not_ready = 802,
  system_driver_mismatch = 803,
  compat_not_supported_on_device = 804,
  mps_connection_failed = 805,
  mps_rpc_failure = 806,
  mps_server_not_ready = 807,
  mps_client_terminated = 810,
  external_device = 911,
  unknown = 999,
};

/// The number of a device in this process, 0 for its first one (CUdevice).
using Device = int;
/// An address in the memory of a device, or one that a device uses (CUdeviceptr).
using Address = unsigned long long;
/// Physical memory that cuMemCreate made or that was imported (CUmemGenericAllocationHandle).
using Allocation = unsigned long long;

using Context = struct ContextTag*;
using Stream = struct StreamTag*;
using Event = struct EventTag*;
using Module = struct ModuleTag*;
using Function = struct FunctionTag*;
using HostFunction = void (*)(void* argument);

struct Uuid {
  std::array<char, 16> bytes;
};

enum class DeviceAttribute : int {
  multiprocessor_count = 16,
  integrated = 18,
  compute_mode = 20,
  max_threads_per_multiprocessor = 39,
  unified_addressing = 41,
  compute_capability_major = 75,
  compute_capability_minor = 76,
  can_use_host_pointer_for_registered_memory = 91,
  pageable_memory_access_uses_host_page_tables = 100,
  virtual_memory_management_supported = 102,
  posix_descriptor_handles_supported = 103,
  read_only_host_register_supported = 113,
  ipc_supported = 125,
  fabric_handles_supported = 128,
};

enum class ComputeMode : int {
  shared = 0,             ///< the default: any number of processes
  prohibited = 2,         ///< no process may have a context
  exclusive_process = 3,  ///< one process at a time
};

// ---- memory that is made, mapped and given access to in steps ----

enum class AllocationType : int { pinned = 1 };
enum class LocationType : int { device = 1 };
enum class HandleType : int { none = 0, posix_descriptor = 1, fabric = 8 };
enum class Access : int { none = 0, read = 1, read_write = 3 };
enum class Granularity : int { minimum = 0, recommended = 1 };

struct Location {
  LocationType type;
  int id;  ///< of a device: its number
};

struct AllocationProperties {
  AllocationType type;
  HandleType handle_types;  ///< a set of bits
  Location location;
  void* win32_metadata;  ///< null
  struct {
    unsigned char compression;
    unsigned char gpu_direct_rdma_capable;
    unsigned short usage;
    std::array<unsigned char, 4> reserved;
  } flags;
};

/// Memory of a device that can be shared by a descriptor.
[[nodiscard]] inline AllocationProperties shareable(Device device) {
  AllocationProperties properties{};
  properties.type = AllocationType::pinned;
  properties.handle_types = HandleType::posix_descriptor;
  properties.location = {LocationType::device, device};
  return properties;
}

struct AccessDescription {
  Location location;
  Access access;
};

// ---- memory and events of other processes ----

inline constexpr std::size_t ipc_handle_bytes = 64;

struct MemoryHandle {
  std::array<char, ipc_handle_bytes> bytes;
};

struct EventHandle {
  std::array<char, ipc_handle_bytes> bytes;
};

inline constexpr unsigned ipc_lazy_enable_peer_access = 1;

enum class PointerAttribute : int {
  context = 1,
  memory_type = 2,
  device_pointer = 3,
  host_pointer = 4,
  sync_memory_operations = 6,
  buffer_id = 7,
  is_managed = 8,
  device_ordinal = 9,
  is_legacy_ipc_capable = 10,
  range_start = 11,
  range_size = 12,
  mapped = 13,
  allowed_handle_types = 14,
  access_flags = 16,
  memory_pool = 17,
};

enum class MemoryType : int { host = 1, device = 2, array = 3, unified = 4 };

// ---- flags ----

inline constexpr unsigned context_blocking_sync = 4;
inline constexpr unsigned stream_non_blocking = 1;
inline constexpr unsigned event_blocking_sync = 1;
inline constexpr unsigned event_disable_timing = 2;
inline constexpr unsigned event_interprocess = 4;
inline constexpr unsigned host_alloc_portable = 1;
inline constexpr unsigned host_alloc_device_map = 2;
inline constexpr unsigned host_register_portable = 1;
inline constexpr unsigned host_register_device_map = 2;
inline constexpr unsigned host_register_read_only = 8;

// ---- kernels ----

enum class FunctionAttribute : int {
  max_threads_per_block = 0,
  shared_bytes = 1,
  local_bytes = 3,
  registers = 4,
  max_dynamic_shared_bytes = 8,
};

enum class JitOption : int {
  info_log = 3,
  info_log_bytes = 4,
  error_log = 5,
  error_log_bytes = 6,
};

// ---- symbols ----

/// What cuGetProcAddress found (CUdriverProcAddressQueryResult).
enum class SymbolQuery : int { found = 0, not_found = 1, version_not_sufficient = 2 };

}  // namespace muster::gpu::cuda
