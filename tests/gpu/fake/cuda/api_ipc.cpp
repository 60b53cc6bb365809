// CUDA Driver API, 6.13 Memory Management: handles of memory and events for other processes.
#include <fcntl.h>

#include <cstring>
#include <fstream>

#include "driver.hpp"

using namespace fake_gpu;

namespace fake_gpu {

std::filesystem::path ipc_export_path(const ProcessId& process, std::uint64_t number) {
  return folder() / "exports" /
         (std::to_string(process.pid) + "-" + std::to_string(process.start) + "." + std::to_string(number));
}

bool IpcSource::valid() const { return std::filesystem::exists(ipc_export_path(process, number)) && lives(process); }

}  // namespace fake_gpu

namespace {

constexpr std::uint64_t memory_magic = 0x6d656d6f72792121;
constexpr std::uint64_t event_magic = 0x6576656e74212121;

struct MemoryContents {
  std::uint64_t magic;
  ProcessId process;
  std::uint64_t number;
  std::uint64_t bytes;
  std::uint64_t inode;
  std::int32_t fd;
  std::int32_t device;  // physical
};
static_assert(sizeof(MemoryContents) <= sizeof(CUipcMemHandle));

struct EventContents {
  std::uint64_t magic;
  ProcessId process;
  std::uint64_t number;
  int device;  // physical
};
static_assert(sizeof(EventContents) <= sizeof(CUipcEventHandle));

std::shared_ptr<Range> opened_before(const MemoryContents& contents, const Context& context) {
  for (const auto& [base, range] : driver().addresses.ranges()) {
    if (range->kind == Range::Kind::ipc && range->source.process == contents.process &&
        range->source.number == contents.number && range->owner == &context)
      return range;
  }
  return nullptr;
}

/// Takes the exporter's descriptor. Its kernel keeps it open for us, whatever the exporter does then.
std::shared_ptr<Physical> take(const MemoryContents& contents) {
  const auto path = "/proc/" + std::to_string(contents.process.pid) + "/fd/" + std::to_string(contents.fd);
  Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  require(static_cast<bool>(fd), CUDA_ERROR_MAP_FAILED);
  auto physical = Physical::import(std::move(fd));
  require(physical != nullptr && physical->inode() == contents.inode, CUDA_ERROR_MAP_FAILED);
  return physical;
}

void require_reachable(const Context& context, int device) {
  const int own = driver().physical(context.ordinal());
  require(own == device || driver().settings.can_access_peer(own, device), CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
}

std::shared_ptr<Range> open_memory(const MemoryContents& contents, Context& context) {
  const int ordinal = driver().ordinal(contents.device);
  require(ordinal >= 0, CUDA_ERROR_MAP_FAILED);
  require_reachable(context, contents.device);
  auto physical = take(contents);
  auto& space = driver().addresses;
  auto range = space.reserve(contents.bytes, 0);
  require(range != nullptr, CUDA_ERROR_OUT_OF_MEMORY);
  range->kind = Range::Kind::ipc;
  range->device = ordinal;
  range->owner = &context;
  range->source = {contents.process, physical->inode(), contents.number};
  const auto bytes = physical->properties().bytes;
  space.map(*range, range->base, bytes, std::move(physical), 0);
  count(contents.device, Item::ipc_imports, 1);
  return range;
}

}  // namespace

extern "C" {

// 6.13, cuIpcGetMemHandle: the base of an allocation by cuMemAlloc. Memory by cuMemCreate or of a pool has no such
// handle: CUDA_ERROR_INVALID_VALUE.
CUresult CUDAAPI cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr address) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(handle != nullptr);
    const auto range = driver().addresses.find(address);
    require_value(range != nullptr && range->kind == Range::Kind::allocation && range->base == address);
    c.on(range->device);
    range->exported = true;
    std::ofstream file(ipc_export_path(this_process(), range->number));
    const auto& physical = *range->mappings.begin()->second.physical;
    const MemoryContents contents{memory_magic,
                                  this_process(),
                                  range->number,
                                  range->bytes,
                                  physical.inode(),
                                  physical.fd(),
                                  driver().physical(range->device)};
    *handle = {};
    std::memcpy(handle->reserved, &contents, sizeof(contents));
  });
}

// 6.13, cuIpcOpenMemHandle: in another process than the exporter's; there it is CUDA_ERROR_INVALID_CONTEXT. The only
// flag is CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, and it must be given. A handle that this context has open gives the same
// address again, and counts.
CUresult CUDAAPI cuIpcOpenMemHandle(CUdeviceptr* address, CUipcMemHandle handle, unsigned int flags) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(address != nullptr && flags == CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
    MemoryContents contents{};
    std::memcpy(&contents, handle.reserved, sizeof(contents));
    require(contents.magic == memory_magic, CUDA_ERROR_INVALID_HANDLE);
    require(contents.process != this_process(), CUDA_ERROR_INVALID_CONTEXT);
    const IpcSource source{contents.process, 0, contents.number};
    require(source.valid(), CUDA_ERROR_INVALID_HANDLE);
    auto range = opened_before(contents, c.context());
    if (!range) range = open_memory(contents, c.context());
    ++range->imports;
    *address = range->base;
  });
}

// 6.13, cuIpcCloseMemHandle: unmaps the memory with the last close; the exporter's allocation stays.
CUresult CUDAAPI cuIpcCloseMemHandle(CUdeviceptr address) {
  return call(__func__, Need::context, [&](Call& c) {
    const auto range = driver().addresses.find(address);
    require_value(range != nullptr && range->kind == Range::Kind::ipc && range->base == address);
    if (--range->imports > 0) return;
    c.drain(c.context().ordinal());
    c.wait([&] { return range->pins == 0; });
    forget_range(range);
  });
}

// 6.13, cuIpcGetEventHandle: for events with CU_EVENT_INTERPROCESS and CU_EVENT_DISABLE_TIMING.
CUresult CUDAAPI cuIpcGetEventHandle(CUipcEventHandle* handle, CUevent event) {
  return call(__func__, Need::context, [&](Call&) {
    require_value(handle != nullptr);
    const auto found = driver().events.find(reinterpret_cast<Event*>(event));
    require(found != driver().events.end(), CUDA_ERROR_INVALID_HANDLE);
    require_value((found->second->flags & CU_EVENT_INTERPROCESS) != 0 && !found->second->imported);
    const EventContents contents{event_magic, this_process(), found->second->number,
                                 driver().physical(found->second->context->ordinal())};
    *handle = {};
    std::memcpy(handle->reserved, &contents, sizeof(contents));
  });
}

// 6.13, cuIpcOpenEventHandle: in another process; the event is destroyed with cuEventDestroy.
CUresult CUDAAPI cuIpcOpenEventHandle(CUevent* event, CUipcEventHandle handle) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(event != nullptr);
    EventContents contents{};
    std::memcpy(&contents, handle.reserved, sizeof(contents));
    require(contents.magic == event_magic, CUDA_ERROR_INVALID_HANDLE);
    require(contents.process != this_process(), CUDA_ERROR_INVALID_CONTEXT);
    require_reachable(c.context(), contents.device);
    auto opened = std::make_shared<Event>();
    opened->path = event_path(contents.process, contents.number);
    if (lives(contents.process)) opened->state = shared_event_state(opened->path, false);
    require(opened->state != nullptr, CUDA_ERROR_INVALID_HANDLE);
    opened->context = &c.context();
    opened->flags = CU_EVENT_DISABLE_TIMING;
    opened->imported = true;
    count(driver().physical(c.context().ordinal()), Item::ipc_events, 1);
    *event = reinterpret_cast<CUevent>(opened.get());
    driver().events[opened.get()] = opened;
  });
}

}  // extern "C"
