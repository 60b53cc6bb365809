#include "address_space.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "context.hpp"

namespace fake_gpu {
namespace {

char* reserve_addresses(std::uint64_t bytes, CUdeviceptr hint) {
  void* memory =
      ::mmap(reinterpret_cast<void*>(hint), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  ::madvise(memory, bytes, MADV_DONTFORK);
  return static_cast<char*>(memory);
}

char* reserve_aligned(std::uint64_t bytes, std::uint64_t alignment, CUdeviceptr hint) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  if (alignment <= page) return reserve_addresses(bytes, hint);
  if (hint % alignment == 0 && hint != 0) {
    char* memory = reserve_addresses(bytes, hint);
    if (memory == nullptr || reinterpret_cast<std::uintptr_t>(memory) % alignment == 0) return memory;
    ::munmap(memory, bytes);
  }
  char* memory = reserve_addresses(bytes + alignment, 0);
  if (memory == nullptr) return nullptr;
  const auto skip = (alignment - reinterpret_cast<std::uintptr_t>(memory) % alignment) % alignment;
  if (skip != 0) ::munmap(memory, skip);
  ::munmap(memory + skip + bytes, alignment - skip);
  return memory + skip;
}

bool has_rights(const Range& range, const Mapping& mapping, const Context* context, Access access) {
  if (range.kind == Range::Kind::reservation) {
    const unsigned long long needed =
        access == Access::write ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_READ;
    const auto allows = [&](unsigned long long flags) { return (flags & needed) == needed; };
    if (context == nullptr)
      return std::any_of(mapping.rights.begin(), mapping.rights.end(), [&](const auto& r) { return allows(r.second); });
    const auto right = mapping.rights.find(context->ordinal());
    return right != mapping.rights.end() && allows(right->second);
  }
  if (range.kind == Range::Kind::ipc && !range.source.valid()) return false;
  // The contexts of one device share its memory. Another device must be made a peer.
  if (context == nullptr || context->ordinal() == range.device) return true;
  if (range.kind == Range::Kind::ipc) return context->ordinal() == range.owner->ordinal();
  return range.kind == Range::Kind::allocation && context->has_peer(range.owner);
}

}  // namespace

Range::~Range() {
  if (shadow != nullptr) ::munmap(shadow, reserved_bytes);
  if (base != 0) ::munmap(reinterpret_cast<void*>(base), reserved_bytes);
}

std::shared_ptr<Range> AddressSpace::reserve(std::uint64_t bytes, std::uint64_t alignment, CUdeviceptr hint) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  auto range = std::make_shared<Range>();
  range->bytes = bytes;
  range->reserved_bytes = (bytes + page - 1) / page * page;
  range->base = reinterpret_cast<CUdeviceptr>(reserve_aligned(range->reserved_bytes, alignment, hint));
  if (range->base == 0) return nullptr;
  range->shadow = reserve_addresses(range->reserved_bytes, 0);
  if (range->shadow == nullptr) return nullptr;
  range->number = next_number();
  ranges_[range->base] = range;
  return range;
}

void AddressSpace::map(Range& range, CUdeviceptr address, std::uint64_t bytes, std::shared_ptr<Physical> physical,
                       CUmemGenericAllocationHandle handle) {
  char* shadow = range.shadow + (address - range.base);
  void* memory = ::mmap(shadow, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, physical->fd(), 0);
  if (memory == MAP_FAILED) throw Failure{CUDA_ERROR_OUT_OF_MEMORY};
  ::madvise(memory, bytes, MADV_DONTFORK);
  range.mappings[address] = {bytes, std::move(physical), handle, {}};
}

void AddressSpace::unmap(Range& range, CUdeviceptr address) {
  const auto mapping = range.mappings.find(address);
  ::mmap(range.shadow + (address - range.base), mapping->second.bytes, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  range.mappings.erase(mapping);
}

void AddressSpace::remove(const std::shared_ptr<Range>& range) { ranges_.erase(range->base); }

std::shared_ptr<Range> AddressSpace::find(CUdeviceptr address) const {
  auto after = ranges_.upper_bound(address);
  if (after == ranges_.begin()) return nullptr;
  const auto& range = std::prev(after)->second;
  return address - range->base < range->bytes ? range : nullptr;
}

std::optional<CUdeviceptr> AddressSpace::mapping_at(const Range& range, CUdeviceptr address) {
  auto after = range.mappings.upper_bound(address);
  if (after == range.mappings.begin()) return std::nullopt;
  const auto& [start, mapping] = *std::prev(after);
  if (address - start >= mapping.bytes) return std::nullopt;
  return start;
}

bool AddressSpace::mapped(CUdeviceptr address, std::uint64_t bytes) const {
  const auto range = find(address);
  if (!range || range->freed || bytes > range->bytes - (address - range->base)) return false;
  for (auto at = address; at < address + bytes;) {
    const auto start = mapping_at(*range, at);
    if (!start) return false;
    at = *start + range->mappings.at(*start).bytes;
  }
  return true;
}

char* AddressSpace::shadow(const Context* context, CUdeviceptr address, std::uint64_t bytes, Access access) const {
  const auto range = find(address);
  if (!range || bytes > range->bytes - (address - range->base)) return nullptr;
  for (auto at = address; at < address + bytes;) {
    const auto start = mapping_at(*range, at);
    if (!start) return nullptr;
    const auto& mapping = range->mappings.at(*start);
    if (!has_rights(*range, mapping, context, access)) return nullptr;
    at = *start + mapping.bytes;
  }
  return range->shadow + (address - range->base);
}

const HostRange* AddressSpace::find_host(const void* address, std::uint64_t bytes) const {
  auto* at = const_cast<char*>(static_cast<const char*>(address));
  const auto after = host_.upper_bound(at);
  if (after == host_.begin()) return nullptr;
  const auto& range = std::prev(after)->second;
  const auto offset = static_cast<std::uint64_t>(at - range.base);
  return offset < range.bytes && bytes <= range.bytes - offset ? &range : nullptr;
}

bool AddressSpace::overlaps_host(const char* base, std::uint64_t bytes) const {
  return std::any_of(host_.begin(), host_.end(), [&](const auto& entry) {
    return base < entry.second.base + entry.second.bytes && entry.second.base < base + bytes;
  });
}

}  // namespace fake_gpu
