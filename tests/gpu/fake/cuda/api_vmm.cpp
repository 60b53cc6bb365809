// CUDA Driver API, 6.14 Virtual Memory Management. These calls need no current context.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "driver.hpp"

using namespace fake_gpu;

namespace {

constexpr unsigned known_handle_types = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR | CU_MEM_HANDLE_TYPE_FABRIC;

/// What an exported fabric handle holds here.
struct FabricHandle {
  std::uint64_t magic;
  ProcessId process;
  int fd;
};
constexpr std::uint64_t fabric_magic = 0x6661627269632121;
static_assert(sizeof(FabricHandle) <= sizeof(CUmemFabricHandle));

bool aligned(std::uint64_t value, std::uint64_t to) { return value % to == 0; }

bool on_host(CUmemLocationType type) {
  return type == CU_MEM_LOCATION_TYPE_HOST || type == CU_MEM_LOCATION_TYPE_HOST_NUMA;
}

/// Returns the ordinal, or host_memory.
int location_of(const CUmemLocation& location) {
  if (on_host(location.type)) return host_memory;
  require_value(location.type == CU_MEM_LOCATION_TYPE_DEVICE);
  driver().require_device(location.id);
  return location.id;
}

std::uint64_t granularity_of(int ordinal) {
  return ordinal == host_memory ? static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE))
                                : driver().device(ordinal).granularity;
}

void require_properties(const CUmemAllocationProp& properties) {
  require_value(properties.type == CU_MEM_ALLOCATION_TYPE_PINNED && properties.win32HandleMetaData == nullptr);
  const unsigned types = properties.requestedHandleTypes;
  require_value((types & ~known_handle_types) == 0);
  require_value(types == 0 || properties.location.type != CU_MEM_LOCATION_TYPE_HOST);
  require((types & CU_MEM_HANDLE_TYPE_FABRIC) == 0 || driver().settings.fabric, CUDA_ERROR_NOT_SUPPORTED);
  for (const auto byte : properties.allocFlags.reserved) require_value(byte == 0);
}

CUmemGenericAllocationHandle add_handle(std::shared_ptr<Physical> physical) {
  const auto& properties = physical->properties();
  const auto handle = 0xfa4e000000000000ULL + driver().addresses.next_number();
  count(std::max(properties.device, 0), Item::handles, 1);
  driver().handles[handle] = {std::move(physical), 1, properties.handle_types};
  return handle;
}

MemoryHandle& known(Call& call, CUmemGenericAllocationHandle handle) {
  const auto found = driver().handles.find(handle);
  require(found != driver().handles.end(), CUDA_ERROR_INVALID_VALUE);
  const int physical = found->second.physical->properties().device;
  if (physical != host_memory) call.on(driver().ordinal(physical));
  return driver().handles.at(handle);
}

std::shared_ptr<Range> reservation_at(CUdeviceptr address) {
  auto range = driver().addresses.find(address);
  require_value(range != nullptr && range->kind == Range::Kind::reservation);
  return range;
}

/// The mappings that make up exactly this range.
std::vector<CUdeviceptr> whole_mappings(const Range& range, CUdeviceptr address, std::uint64_t bytes) {
  std::vector<CUdeviceptr> starts;
  require_value(bytes > 0 && bytes <= range.bytes - (address - range.base));
  for (auto at = address; at < address + bytes;) {
    const auto mapping = range.mappings.find(at);
    require_value(mapping != range.mappings.end() && mapping->second.bytes <= address + bytes - at);
    starts.push_back(at);
    at += mapping->second.bytes;
  }
  return starts;
}

/// A device that isn't there is an invalid value here, and no invalid device (seen with 580.159).
void set_access(Mapping& mapping, const CUmemAccessDesc& access) {
  require_value(on_host(access.location.type) ||
                static_cast<std::size_t>(access.location.id) < driver().settings.devices.size());
  const int place = location_of(access.location);
  const int physical = mapping.physical->properties().device;
  if (place == host_memory)
    require(physical == host_memory, CUDA_ERROR_NOT_SUPPORTED);  // the host can't reach a device's memory
  else if (physical != host_memory && driver().physical(place) != physical)
    require(driver().settings.can_access_peer(driver().physical(place), physical), CUDA_ERROR_INVALID_DEVICE);
  require(access.flags != CU_MEM_ACCESS_FLAGS_PROT_READ || driver().settings.read_only_access,
          CUDA_ERROR_NOT_SUPPORTED);
  mapping.rights[place] = access.flags;
}

Fd import_fabric(const FabricHandle& handle) {
  require(driver().settings.fabric, CUDA_ERROR_NOT_SUPPORTED);
  require_value(handle.magic == fabric_magic && lives(handle.process));
  const auto path = "/proc/" + std::to_string(handle.process.pid) + "/fd/" + std::to_string(handle.fd);
  return Fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
}

}  // namespace

extern "C" {

// 6.14, cuMemGetAllocationGranularity
CUresult CUDAAPI cuMemGetAllocationGranularity(size_t* granularity, const CUmemAllocationProp* properties,
                                               CUmemAllocationGranularity_flags option) {
  return call(__func__, Need::healthy, [&](Call&) {
    require_value(granularity != nullptr && properties != nullptr);
    require_value(option == CU_MEM_ALLOC_GRANULARITY_MINIMUM || option == CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
    require_properties(*properties);
    *granularity = granularity_of(location_of(properties->location));
  });
}

// 6.14, cuMemCreate: the size must be a multiple of the granularity, the flags 0. It makes no mapping.
CUresult CUDAAPI cuMemCreate(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp* properties,
                             unsigned long long flags) {
  return call(__func__, Need::healthy, [&](Call& c) {
    require_value(handle != nullptr && properties != nullptr && flags == 0 && bytes > 0);
    require_properties(*properties);
    const int place = location_of(properties->location);
    if (place != host_memory) c.on(place);
    require_value(aligned(bytes, granularity_of(place)));
    const bool device = place != host_memory;
    auto physical = Physical::make({device ? driver().physical(place) : host_memory, bytes,
                                    static_cast<unsigned>(properties->requestedHandleTypes), true},
                                   device ? driver().device(place).bytes : 0);
    require(physical != nullptr, CUDA_ERROR_OUT_OF_MEMORY);
    *handle = add_handle(std::move(physical));
  });
}

// 6.14, cuMemRelease: gives back one reference. Mappings keep the memory.
CUresult CUDAAPI cuMemRelease(CUmemGenericAllocationHandle handle) {
  return call(__func__, Need::healthy, [&](Call& c) {
    auto& memory = known(c, handle);
    count(std::max(memory.physical->properties().device, 0), Item::handles, -1);
    if (--memory.references == 0) driver().handles.erase(handle);
  });
}

// 6.14, cuMemExportToShareableHandle: only as one of the types that cuMemCreate was asked for; flags must be 0.
CUresult CUDAAPI cuMemExportToShareableHandle(void* shareable, CUmemGenericAllocationHandle handle,
                                              CUmemAllocationHandleType type, unsigned long long flags) {
  return call(__func__, Need::healthy, [&](Call& c) {
    require_value(shareable != nullptr && flags == 0);
    const auto& memory = known(c, handle);
    require_value(type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || type == CU_MEM_HANDLE_TYPE_FABRIC);
    require(type != CU_MEM_HANDLE_TYPE_FABRIC || driver().settings.fabric, CUDA_ERROR_NOT_SUPPORTED);
    require_value((memory.handle_types & static_cast<unsigned>(type)) != 0);
    if (type == CU_MEM_HANDLE_TYPE_FABRIC) {
      *static_cast<FabricHandle*>(shareable) = {fabric_magic, this_process(), memory.physical->fd()};
      return;
    }
    const int fd = ::fcntl(memory.physical->fd(), F_DUPFD_CLOEXEC, 3);
    require(fd >= 0, CUDA_ERROR_OUT_OF_MEMORY);
    *static_cast<int*>(shareable) = fd;
  });
}

// 6.14, cuMemImportFromShareableHandle: the descriptor stays the caller's. Memory of a device that this process doesn't
// see is CUDA_ERROR_NOT_SUPPORTED. Each import needs a cuMemRelease.
CUresult CUDAAPI cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* os_handle,
                                                CUmemAllocationHandleType type) {
  return call(__func__, Need::healthy, [&](Call& c) {
    require_value(handle != nullptr);
    require_value(type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || type == CU_MEM_HANDLE_TYPE_FABRIC);
    Fd fd = type == CU_MEM_HANDLE_TYPE_FABRIC
                ? import_fabric(*static_cast<const FabricHandle*>(os_handle))
                : Fd(::fcntl(static_cast<int>(reinterpret_cast<std::intptr_t>(os_handle)), F_DUPFD_CLOEXEC, 3));
    require_value(static_cast<bool>(fd));
    auto physical = Physical::import(std::move(fd));
    require_value(physical != nullptr && (physical->properties().handle_types & static_cast<unsigned>(type)) != 0);
    const int device = physical->properties().device;
    if (device != host_memory) {
      const int ordinal = driver().ordinal(device);
      require(ordinal >= 0, CUDA_ERROR_NOT_SUPPORTED);
      c.on(ordinal);
    }
    *handle = add_handle(std::move(physical));
  });
}

// 6.14, cuMemAddressReserve: size and address are multiples of the page size, the alignment is a power of two or 0, the
// flags are 0; the address is a hint.
CUresult CUDAAPI cuMemAddressReserve(CUdeviceptr* address, size_t bytes, size_t alignment, CUdeviceptr hint,
                                     unsigned long long flags) {
  return call(__func__, Need::healthy, [&](Call&) {
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    require_value(address != nullptr && bytes > 0 && flags == 0 && aligned(bytes, page) && aligned(hint, page));
    require_value((alignment & (alignment - 1)) == 0);
    const auto range = driver().addresses.reserve(bytes, std::max<std::uint64_t>(alignment, 2U << 20), hint);
    require(range != nullptr, CUDA_ERROR_OUT_OF_MEMORY);
    count(0, Item::reservations, 1);
    *address = range->base;
  });
}

// 6.14, cuMemAddressFree: address and size must be those of the reservation, and nothing may be mapped in it.
CUresult CUDAAPI cuMemAddressFree(CUdeviceptr address, size_t bytes) {
  return call(__func__, Need::healthy, [&](Call&) {
    const auto range = reservation_at(address);
    require_value(range->base == address && range->bytes == bytes && range->mappings.empty());
    forget_range(range);
  });
}

// 6.14, cuMemMap: into a reservation, where nothing is mapped yet; the offset and the flags must be 0. It grants no
// access. Another part of an allocation than its beginning is NOT_SUPPORTED (seen with 580.159).
CUresult CUDAAPI cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                          unsigned long long flags) {
  return call(__func__, Need::healthy, [&](Call& c) {
    require_value(flags == 0 && bytes > 0);
    const auto& memory = known(c, handle);
    const auto& properties = memory.physical->properties();
    const auto granularity =
        granularity_of(properties.device == host_memory ? host_memory : driver().ordinal(properties.device));
    require(offset == 0 && aligned(bytes, granularity) && bytes <= properties.bytes, CUDA_ERROR_NOT_SUPPORTED);
    require_value(aligned(address, granularity));
    const auto range = reservation_at(address);
    require_value(bytes <= range->bytes - (address - range->base));
    const auto next = range->mappings.lower_bound(address);
    require_value(next == range->mappings.end() || next->first >= address + bytes);
    require_value(!AddressSpace::mapping_at(*range, address));
    driver().addresses.map(*range, address, bytes, memory.physical, handle);
    count(std::max(properties.device, 0), Item::mappings, 1);
  });
}

// 6.14, cuMemUnmap: whole mappings only. It does not wait for work that was enqueued before, which then finds nothing
// there (seen with 580.159).
CUresult CUDAAPI cuMemUnmap(CUdeviceptr address, size_t bytes) {
  return call(__func__, Need::healthy, [&](Call& c) {
    const auto range = reservation_at(address);
    for (const auto start : whole_mappings(*range, address, bytes)) {
      const int device = range->mappings.at(start).physical->properties().device;
      if (device != host_memory) c.on(driver().ordinal(device));
      c.wait([&] { return range->pins == 0; });
      driver().addresses.unmap(*range, start);
      count(std::max(device, 0), Item::mappings, -1);
    }
  });
}

// 6.14, cuMemSetAccess: for a range that is fully mapped, and of whole mappings.
CUresult CUDAAPI cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc* access, size_t number) {
  return call(__func__, Need::healthy, [&](Call&) {
    require_value(access != nullptr && number > 0);
    const auto range = reservation_at(address);
    const auto starts = whole_mappings(*range, address, bytes);
    for (std::size_t at = 0; at < number; ++at) {
      require_value(access[at].flags == CU_MEM_ACCESS_FLAGS_PROT_NONE ||
                    access[at].flags == CU_MEM_ACCESS_FLAGS_PROT_READ ||
                    access[at].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
      for (const auto start : starts) set_access(range->mappings.at(start), access[at]);
    }
  });
}

// 6.14, cuMemGetAccess
CUresult CUDAAPI cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location, CUdeviceptr address) {
  return call(__func__, Need::healthy, [&](Call&) {
    require_value(flags != nullptr && location != nullptr);
    const auto range = reservation_at(address);
    const auto start = AddressSpace::mapping_at(*range, address);
    require_value(start.has_value());
    const auto& rights = range->mappings.at(*start).rights;
    const auto right = rights.find(location_of(*location));
    *flags = right == rights.end() ? 0 : right->second;
  });
}

// 6.14, cuMemGetAllocationPropertiesFromHandle
CUresult CUDAAPI cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* properties,
                                                        CUmemGenericAllocationHandle handle) {
  return call(__func__, Need::healthy, [&](Call& c) {
    require_value(properties != nullptr);
    const auto& memory = known(c, handle);
    const int device = memory.physical->properties().device;
    *properties = {};
    properties->type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties->requestedHandleTypes = static_cast<CUmemAllocationHandleType>(memory.handle_types);
    properties->location.type = device == host_memory ? CU_MEM_LOCATION_TYPE_HOST_NUMA : CU_MEM_LOCATION_TYPE_DEVICE;
    properties->location.id = device == host_memory ? 0 : driver().ordinal(device);
  });
}

// 6.14, cuMemRetainAllocationHandle: the handle that the address was mapped with, and one more reference to it.
CUresult CUDAAPI cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* address) {
  return call(__func__, Need::healthy, [&](Call&) {
    require_value(handle != nullptr);
    const auto at = reinterpret_cast<CUdeviceptr>(address);
    const auto range = reservation_at(at);
    const auto start = AddressSpace::mapping_at(*range, at);
    require_value(start.has_value());
    const auto& mapping = range->mappings.at(*start);
    const auto& properties = mapping.physical->properties();
    auto [entry, is_new] = driver().handles.try_emplace(mapping.handle);
    if (is_new) entry->second = {mapping.physical, 1, properties.handle_types};
    else ++entry->second.references;
    count(std::max(properties.device, 0), Item::handles, 1);
    *handle = mapping.handle;
  });
}

}  // extern "C"
