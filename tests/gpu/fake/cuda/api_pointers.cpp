// CUDA Driver API, 6.17 Unified Addressing.
#include <cstring>

#include "driver.hpp"

using namespace fake_gpu;

namespace {

struct Found {
  CUdeviceptr address = 0;
  std::shared_ptr<Range> range;
  const HostRange* host = nullptr;
  const Mapping* mapping = nullptr;  // of a reservation
};

Found find(CUdeviceptr address) {
  Found found;
  found.address = address;
  found.range = driver().addresses.find(address);
  if (found.range && found.range->freed) found.range.reset();
  if (found.range && found.range->kind == Range::Kind::reservation) {
    if (const auto start = AddressSpace::mapping_at(*found.range, address))
      found.mapping = &found.range->mappings.at(*start);
  }
  found.host = driver().addresses.find_host(reinterpret_cast<const void*>(address));
  return found;
}

template <class T>
void write(void* data, T value) {
  std::memcpy(data, &value, sizeof(value));
}

bool reserved(const Found& found) { return found.range && found.range->kind == Range::Kind::reservation; }

/// A reservation where nothing is mapped is no memory.
bool is_memory(const Found& found) {
  return found.host != nullptr || (found.range && (!reserved(found) || found.mapping));
}

int physical_of(const Found& found) {
  if (found.mapping != nullptr) return found.mapping->physical->properties().device;
  return driver().physical(found.range->device);
}

int ordinal_of(const Found& found) {
  if (found.host != nullptr) return found.host->owner->ordinal();
  const int physical = physical_of(found);
  return physical == host_memory ? CU_DEVICE_CPU : driver().ordinal(physical);
}

CUmemorytype type_of(const Found& found) {
  const bool host = found.host != nullptr || physical_of(found) == host_memory;
  return host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
}

CUcontext context_of(const Found& found) {
  auto* owner = found.host != nullptr ? found.host->owner : found.range->owner;
  return owner == nullptr ? nullptr : owner->handle();  // memory by cuMemCreate is no context's
}

unsigned long long start_of_range(const Found& found) {
  return found.host != nullptr ? reinterpret_cast<unsigned long long>(found.host->base) : found.range->base;
}

std::size_t size_of_range(const Found& found) { return found.host != nullptr ? found.host->bytes : found.range->bytes; }

unsigned handle_types_of(const Found& found) {
  return found.mapping != nullptr ? found.mapping->physical->properties().handle_types : 0U;
}

int legacy_ipc_of(const Found& found) {
  return found.host == nullptr && found.range->kind == Range::Kind::allocation ? 1 : 0;
}

CUmemoryPool mempool_of(const Found& found) {
  CUmemoryPool pool = nullptr;
  if (found.host == nullptr && found.range->kind == Range::Kind::pool) pool = default_pool(found.range->device);
  return pool;
}

/// Of addresses where nothing is mapped a driver tells nothing, not even that (seen with 580.159).
void write_attribute(void* data, CUpointer_attribute attribute, const Found& found) {
  require_value(is_memory(found));
  const bool host = type_of(found) == CU_MEMORYTYPE_HOST;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MAPPED: return write(data, true);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: return write(data, start_of_range(found));
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: return write(data, size_of_range(found));
    case CU_POINTER_ATTRIBUTE_CONTEXT: return write(data, context_of(found));
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: return write(data, static_cast<unsigned>(type_of(found)));
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: return write(data, found.address);
    case CU_POINTER_ATTRIBUTE_HOST_POINTER: require_value(host); return write(data, found.address);
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS: return write(data, false);
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      return write(data, static_cast<unsigned long long>(found.host ? found.host->number : found.range->number));
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: return write(data, false);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: return write(data, ordinal_of(found));
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE: return write(data, legacy_ipc_of(found));
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES: return write(data, handle_types_of(found));
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE: return write(data, mempool_of(found));
    default: throw Failure{CUDA_ERROR_INVALID_VALUE};
  }
}

/// 6.17, cuPointerGetAttributes: what can't be told of a pointer is null there, and no error.
void write_null(void* data, CUpointer_attribute attribute) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_BUFFER_ID: return write(data, 0ULL);
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE: return write(data, 0U);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: return write(data, static_cast<int>(CU_DEVICE_INVALID));
    case CU_POINTER_ATTRIBUTE_MAPPED:
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: return write(data, false);
    default: throw Failure{CUDA_ERROR_INVALID_VALUE};
  }
}

}  // namespace

extern "C" {

// 6.17, cuPointerGetAttribute: CUDA_ERROR_INVALID_VALUE for a pointer that the driver doesn't know.
CUresult CUDAAPI cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr address) {
  return call(__func__, Need::healthy, [&](Call&) {
    require_value(data != nullptr);
    write_attribute(data, attribute, find(address));
  });
}

CUresult CUDAAPI cuPointerGetAttributes(unsigned int number, CUpointer_attribute* attributes, void** data,
                                        CUdeviceptr address) {
  return call(__func__, Need::healthy, [&](Call&) {
    require_value(attributes != nullptr && data != nullptr && number > 0);
    const auto found = find(address);
    for (unsigned at = 0; at < number; ++at) {
      try {
        write_attribute(data[at], attributes[at], found);
      } catch (const Failure&) {
        write_null(data[at], attributes[at]);
      }
    }
  });
}

}  // extern "C"
