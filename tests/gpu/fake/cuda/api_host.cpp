// CUDA Driver API, 6.13 Memory Management: pinned memory of the host.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "driver.hpp"

using namespace fake_gpu;

namespace {

constexpr unsigned allocation_flags =
    CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
constexpr unsigned registration_flags = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP |
                                        CU_MEMHOSTREGISTER_IOMEMORY | CU_MEMHOSTREGISTER_READ_ONLY;

/// Whether all of these bytes are mapped, and may be used so.
bool is_mapped(std::uintptr_t begin, std::uintptr_t end, bool for_writing) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; begin < end && std::getline(maps, line);) {
    unsigned long first = 0, last = 0;
    char read = '-', write = '-';
    if (std::sscanf(line.c_str(), "%lx-%lx %c%c", &first, &last, &read, &write) != 4 || begin >= last) continue;
    if (begin < first || read != 'r' || (for_writing && write != 'w')) return false;
    begin = last;
  }
  return begin >= end;
}

void* allocate(Context& context, std::size_t bytes, unsigned flags) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto whole = (bytes + page - 1) / page * page;
  void* memory = ::mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(memory != MAP_FAILED, CUDA_ERROR_OUT_OF_MEMORY);
  auto& space = driver().addresses;
  space.add_host({static_cast<char*>(memory), bytes, flags, false, &context, space.next_number()});
  count(driver().physical(context.ordinal()), Item::host_allocations, 1);
  return memory;
}

const HostRange& known(void* pointer) {
  const auto* range = driver().addresses.find_host(pointer);
  require_value(range != nullptr);
  return *range;
}

}  // namespace

extern "C" {

// 6.13, cuMemHostAlloc
CUresult CUDAAPI cuMemHostAlloc(void** pointer, size_t bytes, unsigned int flags) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(pointer != nullptr && bytes > 0 && (flags & ~allocation_flags) == 0);
    *pointer = allocate(c.context(), bytes, flags);
  });
}

// 6.13, cuMemAllocHost
CUresult CUDAAPI cuMemAllocHost(void** pointer, size_t bytes) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(pointer != nullptr && bytes > 0);
    *pointer = allocate(c.context(), bytes, 0);
  });
}

// 6.13, cuMemFreeHost: an address of cuMemHostAlloc or cuMemAllocHost. It waits for work that may use the memory.
CUresult CUDAAPI cuMemFreeHost(void* pointer) {
  return call(__func__, Need::context, [&](Call& c) {
    const auto range = known(pointer);
    require_value(!range.registered && range.base == pointer);
    c.drain_all();
    forget_host_range(range);
  });
}

// 6.13, cuMemHostRegister: memory that is mapped, and for writing unless CU_MEMHOSTREGISTER_READ_ONLY is given, which
// the device may not support; only once, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED.
CUresult CUDAAPI cuMemHostRegister(void* pointer, size_t bytes, unsigned int flags) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(pointer != nullptr && bytes > 0 && (flags & ~registration_flags) == 0);
    require((flags & CU_MEMHOSTREGISTER_IOMEMORY) == 0, CUDA_ERROR_NOT_SUPPORTED);
    const bool read_only = (flags & CU_MEMHOSTREGISTER_READ_ONLY) != 0;
    require(!read_only || driver().settings.read_only_registration, CUDA_ERROR_NOT_SUPPORTED);
    auto* base = static_cast<char*>(pointer);
    auto& space = driver().addresses;
    require(!space.overlaps_host(base, bytes), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    const auto begin = reinterpret_cast<std::uintptr_t>(pointer);
    require_value(is_mapped(begin, begin + bytes, !read_only));
    space.add_host({base, bytes, flags, true, &c.context(), space.next_number()});
    count(driver().physical(c.context().ordinal()), Item::host_registrations, 1);
  });
}

// 6.13, cuMemHostUnregister: the base that was registered, else CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED. The memory must
// still be mapped.
CUresult CUDAAPI cuMemHostUnregister(void* pointer) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(pointer != nullptr);
    const auto* found = driver().addresses.find_host(pointer);
    require(found != nullptr && found->registered, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    const auto range = *found;
    require_value(range.base == pointer);
    const auto begin = reinterpret_cast<std::uintptr_t>(pointer);
    require_value(is_mapped(begin, begin + range.bytes, (range.flags & CU_MEMHOSTREGISTER_READ_ONLY) == 0));
    c.drain_all();
    forget_host_range(range);
  });
}

// 6.13, cuMemHostGetDevicePointer: flags must be 0. With unified addressing the address is the same.
CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr* address, void* pointer, unsigned int flags) {
  return call(__func__, Need::context, [&](Call&) {
    require_value(address != nullptr && flags == 0);
    known(pointer);
    *address = reinterpret_cast<CUdeviceptr>(pointer);
  });
}

// 6.13, cuMemHostGetFlags: of memory by cuMemHostAlloc.
CUresult CUDAAPI cuMemHostGetFlags(unsigned int* flags, void* pointer) {
  return call(__func__, Need::context, [&](Call&) {
    require_value(flags != nullptr);
    const auto& range = known(pointer);
    require_value(!range.registered);
    *flags = range.flags;
  });
}

}  // extern "C"
