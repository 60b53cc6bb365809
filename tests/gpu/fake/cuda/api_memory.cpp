// CUDA Driver API, 6.13 Memory Management (cuMemAlloc and what is about it), 6.15 Stream Ordered Memory Allocator.
#include <unistd.h>

#include <algorithm>
#include <array>

#include "driver.hpp"

using namespace fake_gpu;

namespace {

int ordinal_of(CUmemoryPool pool) {
  for (std::size_t ordinal = 0; ordinal < driver().primaries.size(); ++ordinal)
    if (default_pool(static_cast<int>(ordinal)) == pool) return static_cast<int>(ordinal);
  throw Failure{CUDA_ERROR_INVALID_VALUE};
}

std::shared_ptr<Range> allocate(Context& context, std::uint64_t bytes, Range::Kind kind) {
  const int ordinal = context.ordinal();
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  require(bytes <= driver().device(ordinal).bytes, CUDA_ERROR_OUT_OF_MEMORY);
  const auto whole = (bytes + page - 1) / page * page;
  auto physical = Physical::make({driver().physical(ordinal), whole, 0, false}, driver().device(ordinal).bytes);
  require(physical != nullptr, CUDA_ERROR_OUT_OF_MEMORY);
  auto& space = driver().addresses;
  auto range = space.reserve(bytes, 0);
  require(range != nullptr, CUDA_ERROR_OUT_OF_MEMORY);
  range->kind = kind;
  range->device = ordinal;
  range->owner = &context;
  space.map(*range, range->base, whole, std::move(physical), 0);
  count(driver().physical(ordinal), Item::allocations, 1);
  return range;
}

std::shared_ptr<Range> allocation_at(CUdeviceptr address) {
  auto range = driver().addresses.find(address);
  require_value(range != nullptr && range->base == address && !range->freed &&
                (range->kind == Range::Kind::allocation || range->kind == Range::Kind::pool));
  return range;
}

std::uint64_t pool_bytes(int ordinal) {
  std::uint64_t bytes = 0;
  for (const auto& [base, range] : driver().addresses.ranges())
    if (range->kind == Range::Kind::pool && range->device == ordinal) bytes += range->bytes;
  return bytes;
}

}  // namespace

extern "C" {

// 6.13, cuMemGetInfo: free memory is what no process has.
CUresult CUDAAPI cuMemGetInfo(size_t* free_bytes, size_t* total) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(free_bytes != nullptr && total != nullptr);
    const auto& device = driver().device(c.context().ordinal());
    const FolderLock lock;
    const auto used = observe_memory()[device.physical].bytes;
    *total = device.bytes;
    *free_bytes = device.bytes - std::min(used, device.bytes);
  });
}

// 6.13, cuMemAlloc: CUDA_ERROR_INVALID_VALUE for 0 bytes.
CUresult CUDAAPI cuMemAlloc(CUdeviceptr* address, size_t bytes) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(address != nullptr && bytes > 0);
    *address = allocate(c.context(), bytes, Range::Kind::allocation)->base;
  });
}

// 6.13, cuMemFree: an address of cuMemAlloc or cuMemAllocAsync. It doesn't wait for work that uses memory by
// cuMemAllocAsync, so such work must be done; for other memory it waits.
CUresult CUDAAPI cuMemFree(CUdeviceptr address) {
  return call(__func__, Need::context, [&](Call& c) {
    const auto range = allocation_at(address);
    if (range->kind == Range::Kind::allocation) c.drain(range->device);
    range->freed = true;
    c.wait([&] { return range->pins == 0; });
    forget_range(range);
  });
}

// 6.13, cuMemGetAddressRange: base and size of the allocation that holds the address; both results may be null.
// CUDA_ERROR_NOT_FOUND for other addresses.
CUresult CUDAAPI cuMemGetAddressRange(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
  return call(__func__, Need::context, [&](Call&) {
    const auto range = driver().addresses.find(address);
    require(range != nullptr && !range->freed, CUDA_ERROR_NOT_FOUND);
    if (range->kind != Range::Kind::reservation) {
      if (base != nullptr) *base = range->base;
      if (bytes != nullptr) *bytes = range->bytes;
      return;
    }
    const auto start = AddressSpace::mapping_at(*range, address);
    require(start.has_value(), CUDA_ERROR_NOT_FOUND);
    if (base != nullptr) *base = *start;
    if (bytes != nullptr) *bytes = range->mappings.at(*start).bytes;
  });
}

// 6.15, cuMemAllocAsync: memory of the current pool of the stream's device. Work that is ordered behind this call in
// the stream may use it.
CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream handle) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(address != nullptr && bytes > 0);
    const auto stream = c.context().stream(handle);
    *address = allocate(stream->context(), bytes, Range::Kind::pool)->base;
    stream->enqueue({});
  });
}

CUresult CUDAAPI cuMemAllocFromPoolAsync(CUdeviceptr* address, size_t bytes, CUmemoryPool pool, CUstream handle) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(address != nullptr && bytes > 0);
    require_value(ordinal_of(pool) == c.context().ordinal());
    const auto stream = c.context().stream(handle);
    *address = allocate(stream->context(), bytes, Range::Kind::pool)->base;
    stream->enqueue({});
  });
}

// 6.15, cuMemFreeAsync: after this call, no later work may use the memory. It is gone when the stream comes there.
CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
  return call(__func__, Need::context, [&](Call& c) {
    const auto stream = c.context().stream(handle);
    const auto range = allocation_at(address);
    range->freed = true;
    Work work;
    work.ready = [range] { return range->pins == 0; };
    work.after = [range] { forget_range(range); };
    stream->enqueue(std::move(work));
  });
}

// 6.15, cuDeviceGetDefaultMemPool, cuDeviceGetMemPool
CUresult CUDAAPI cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice device) {
  return call(__func__, Need::init, [&](Call& c) {
    require_value(pool != nullptr);
    driver().require_device(device);
    c.on(device);
    *pool = default_pool(device);
  });
}

CUresult CUDAAPI cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice device) {
  return call(__func__, Need::init, [&](Call& c) {
    require_value(pool != nullptr);
    driver().require_device(device);
    c.on(device);
    *pool = default_pool(device);
  });
}

// 6.15, cuMemPoolGetAttribute: 64 bits for amounts, an int for the reuse policies.
CUresult CUDAAPI cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void* value) {
  return call(__func__, Need::init, [&](Call&) {
    require_value(value != nullptr);
    const int ordinal = ordinal_of(pool);
    switch (attribute) {
      case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        *static_cast<cuuint64_t*>(value) = driver().pool_thresholds[ordinal];
        return;
      case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
      case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
      case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
      case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: *static_cast<cuuint64_t*>(value) = pool_bytes(ordinal); return;
      case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
      case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
      case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES: *static_cast<int*>(value) = 1; return;
      default: throw Failure{CUDA_ERROR_INVALID_VALUE};
    }
  });
}

// 6.15, cuMemPoolSetAttribute: of the amounts only the threshold, and high marks to 0.
CUresult CUDAAPI cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void* value) {
  return call(__func__, Need::init, [&](Call&) {
    require_value(value != nullptr);
    const int ordinal = ordinal_of(pool);
    require_value(attribute != CU_MEMPOOL_ATTR_USED_MEM_CURRENT && attribute != CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
    if (attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
      driver().pool_thresholds[ordinal] = *static_cast<const cuuint64_t*>(value);
  });
}

// 6.15, cuMemPoolTrimTo: freed memory of the pool goes back at once here, so there is nothing to trim.
CUresult CUDAAPI cuMemPoolTrimTo(CUmemoryPool pool, size_t) {
  return call(__func__, Need::init, [&](Call&) { ordinal_of(pool); });
}

}  // extern "C"
