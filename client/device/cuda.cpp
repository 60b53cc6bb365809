#include "cuda.hpp"

#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstddef>
#include <string>
#include <thread>
#include <utility>
#include <variant>

#include <fmt/format.h>

namespace muster::detail {

using gpu::DeviceMapping;
using gpu::cuda::Address;
using gpu::cuda::Context;
using gpu::cuda::Driver;
using gpu::cuda::MemoryType;
using gpu::cuda::PointerAttribute;
using gpu::cuda::Status;

namespace {

/// For the work of a seal: so long does a process wait for its own GPU before it says so.
constexpr auto nap_min = std::chrono::microseconds(5);
constexpr auto nap_max = std::chrono::milliseconds(1);

Address address_of(const void* address) { return reinterpret_cast<std::uintptr_t>(address); }

/// An event without timing, destroyed at the end.
class OwnEvent {
 public:
  explicit OwnEvent(const Driver& driver) : driver_(driver) {}
  OwnEvent(const OwnEvent&) = delete;
  OwnEvent& operator=(const OwnEvent&) = delete;
  ~OwnEvent() {
    if (event) driver_.event_destroy(event);
  }
  [[nodiscard]] Status create() { return driver_.event_create(&event, gpu::cuda::event_disable_timing); }
  gpu::cuda::Event event = nullptr;

 private:
  const Driver& driver_;
};

/// A stream of its own for one copy, so that nobody else's work is waited for.
class OwnStream {
 public:
  explicit OwnStream(const Driver& driver) : driver_(driver) {}
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  ~OwnStream() {
    if (stream) driver_.stream_destroy(stream);
  }
  [[nodiscard]] Status create() { return driver_.stream_create(&stream, gpu::cuda::stream_non_blocking); }
  gpu::cuda::Stream stream = nullptr;

 private:
  const Driver& driver_;
};

}  // namespace

struct Cuda::Opened {
  Result<Cuda*> cuda;
  pid_t process = ::getpid();
};

namespace {

/// Of the process in which it was opened; null until then.
std::atomic<Cuda*> open_cuda;
std::atomic<pid_t> open_process;

}  // namespace

const Cuda::Opened& Cuda::opened() {
  static const Opened once = [] {
    auto found = gpu::open_driver(gpu::driver_candidates());
    if (auto error = gpu::driver_error(found.search)) return Opened{*error};
    if (const Status status = found.driver->init(0); status != Status::success)
      return Opened{gpu::init_error(*found.driver, status)};
    auto* const cuda = new Cuda(std::move(found.driver));  // lives longer than every static object
    open_process = ::getpid();
    open_cuda = cuda;
    return Opened{cuda};
  }();
  return once;
}

Result<Cuda*> Cuda::get() {
  const Opened& once = opened();
  if (once.cuda && once.process != ::getpid())
    return Error(Code::invalid, "a forked child can't use the GPUs that its parent uses",
                 "start processes that use GPUs by 'spawn' or 'forkserver', or fork before the first array on a GPU");
  return once.cuda;
}

Cuda* Cuda::if_open() {
  Cuda* const cuda = open_cuda;
  return cuda && open_process == ::getpid() ? cuda : nullptr;
}

Error Cuda::failed(const char* call, Status status) const {
  const bool full = status == Status::out_of_memory;
  return {full ? Code::out_of_memory : Code::failed, fmt::format("{}: {}", call, driver_->describe(status)),
          full ? "the GPU has no memory left for this process: see `nvidia-smi`"
               : "if an earlier call of this process has failed on the GPU, begin anew in another process"};
}

// ---- contexts ----

CudaContext::~CudaContext() {
  if (context_) driver_.device_primary_ctx_release(device_);
}

Status CudaContext::retain() {
  const Status status = driver_.device_primary_ctx_retain(&context_, device_);
  if (status != Status::success) context_ = nullptr;
  return status;
}

Result<CudaContextPtr> Cuda::context_of(gpu::cuda::Device device) {
  const std::lock_guard lock(mutex_);
  if (device < 0 || static_cast<std::size_t>(device) >= contexts_.size())
    return Error(Code::invalid,
                 fmt::format("CUDA calls the GPU {}, and this library knows {}", device, contexts_.size()));
  auto& known = contexts_[static_cast<std::size_t>(device)];
  if (auto context = known.lock()) return context;
  const auto context = std::make_shared<CudaContext>(*driver_, device);
  if (const Status status = context->retain(); status != Status::success)
    return failed("cuDevicePrimaryCtxRetain", status);
  known = context;
  return CudaContextPtr(context);
}

std::vector<gpu::cuda::Device> Cuda::used() const {
  std::vector<gpu::cuda::Device> found;
  int count = 0;
  if (driver_->device_get_count(&count) != Status::success) return found;
  for (gpu::cuda::Device device = 0; device < count; ++device) {
    unsigned flags = 0;
    int active = 0;
    if (driver_->device_primary_ctx_get_state(device, &flags, &active) == Status::success && active != 0)
      found.push_back(device);
  }
  return found;
}

class Cuda::Current {
 public:
  Current(const Driver& driver, const CudaContext& context) : driver_(driver) {
    driver_.ctx_get_current(&before_);
    changed_ = before_ != context.get();
    if (changed_) driver_.ctx_set_current(context.get());
  }
  ~Current() {
    if (changed_) driver_.ctx_set_current(before_);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  const Driver& driver_;
  Context before_ = nullptr;
  bool changed_ = false;
};

// ---- memory ----

Result<std::unique_ptr<CudaMapping>> Cuda::map(const ipc::Fd& fd, std::uint64_t bytes, ipc::Access access,
                                               Device device) {
  const auto unmapped = [&](const char* call, Status status) {
    Error why = failed(call, status);
    if (!gpu::cuda::leaves_context(status)) return why;
    return Error(why.code() == Code::out_of_memory ? why.code() : Code::invalid,
                 fmt::format("memory of {} can't be mapped here: {}", name(device), why.message()),
                 "this process must see that GPU, too: look at CUDA_VISIBLE_DEVICES, and `nvidia-smi -L`");
  };
  auto mapped = std::make_unique<CudaMapping>(*driver_, bytes);
  DeviceMapping& mapping = mapped->mapping;
  if (const Status status = mapping.import(fd.get()); status != Status::success)
    return unmapped("cuMemImportFromShareableHandle", status);
  gpu::cuda::Device own = 0;
  if (const Status status = mapping.find_device(own); status != Status::success)
    return unmapped("cuMemGetAllocationPropertiesFromHandle", status);
  auto context = context_of(own);
  if (!context) return context.error();
  const Current current(*driver_, **context);
  const bool reads = access == ipc::Access::read_only;
  Status status = mapping.map(own, reads ? gpu::cuda::Access::read : gpu::cuda::Access::read_write);
  // Not every driver knows read-only access, which is a help and no protection.
  if (reads && status == Status::not_supported) status = mapping.allow(own, gpu::cuda::Access::read_write);
  if (status != Status::success) return unmapped("cuMemMap", status);
  mapped->context = std::move(*context);
  return mapped;
}

// ---- memory that processes share by handles ----

CudaShared::~CudaShared() { cuda_.end_use(memory_.handle); }

void EndShared::operator()(CudaShared* shared) const {
  if (Cuda::if_open()) delete shared;
}

CudaSharedPtr Cuda::use(Shared& shared, const ipc::InPlaceMemory& memory) {
  CudaSharedPtr made(new CudaShared(*this, memory, shared.base));
  ++shared.uses;
  return made;
}

void Cuda::end_use(const ipc::MemoryHandle& handle) {
  const std::lock_guard lock(shared_mutex_);
  const auto found = shared_.find(handle);
  if (found == shared_.end() || --found->second.uses > 0) return;
  if (!found->second.is_own) {
    const Current current(*driver_, *found->second.context);
    driver_->ipc_close_mem_handle(address_of(found->second.base));
  }
  shared_.erase(found);
}

Result<CudaSharedPtr> Cuda::share(const void* address) {
  auto context = context_at(address);
  if (!context) return context.error();
  const Current current(*driver_, **context);
  int is_capable = 0;
  const Address at = address_of(address);
  if (const Status status = driver_->pointer_get_attribute(&is_capable, PointerAttribute::is_legacy_ipc_capable, at);
      status != Status::success)
    return failed("cuPointerGetAttribute", status);
  if (is_capable == 0) return CudaSharedPtr();
  Address base = 0;
  std::size_t bytes = 0;
  if (const Status status = driver_->mem_get_address_range(&base, &bytes, at); status != Status::success)
    return failed("cuMemGetAddressRange", status);
  gpu::cuda::MemoryHandle handle{};
  // What another process has opened by IPC can't be shared on, and not every driver says so before.
  const Status status = driver_->ipc_get_mem_handle(&handle, base);
  if (status == Status::invalid_value || status == Status::not_supported) return CudaSharedPtr();
  if (status != Status::success) return failed("cuIpcGetMemHandle", status);
  gpu::cuda::Uuid uuid{};
  if (const Status told = driver_->device_get_uuid(&uuid, (*context)->device()); told != Status::success)
    return failed("cuDeviceGetUuid", told);
  const ipc::InPlaceMemory memory{bytes, std::bit_cast<ipc::MemoryHandle>(handle), std::bit_cast<ipc::GpuUuid>(uuid)};
  const std::lock_guard lock(shared_mutex_);
  auto& shared = shared_[memory.handle];
  // NOLINTNEXTLINE(performance-no-int-to-ptr): so the driver gives it
  if (shared.uses == 0) shared = {reinterpret_cast<std::byte*>(base), true, 0, std::move(*context)};
  return use(shared, memory);
}

Result<int> Cuda::gpu_with(const ipc::GpuUuid& uuid, Device device) const {
  int count = 0;
  if (const Status status = driver_->device_get_count(&count); status != Status::success)
    return failed("cuDeviceGetCount", status);
  for (gpu::cuda::Device each = 0; each < count; ++each) {
    gpu::cuda::Uuid own{};
    if (driver_->device_get_uuid(&own, each) == Status::success && std::bit_cast<ipc::GpuUuid>(own) == uuid)
      return each;
  }
  return Error(Code::invalid,
               fmt::format("memory of {} can't be opened here: this process does not see it", name(device)),
               "look at CUDA_VISIBLE_DEVICES, and `nvidia-smi -L`");
}

Result<CudaSharedPtr> Cuda::open(const ipc::InPlaceMemory& memory, Device device) {
  const auto gpu = gpu_with(memory.gpu, device);
  if (!gpu) return gpu.error();
  auto context = context_of(*gpu);
  if (!context) return context.error();
  const std::lock_guard lock(shared_mutex_);
  if (const auto known = shared_.find(memory.handle); known != shared_.end()) return use(known->second, memory);
  const Current current(*driver_, **context);
  const auto entry = shared_.try_emplace(memory.handle).first;
  Address base = 0;
  const Status status = driver_->ipc_open_mem_handle(&base, std::bit_cast<gpu::cuda::MemoryHandle>(memory.handle),
                                                     gpu::cuda::ipc_lazy_enable_peer_access);
  if (status != Status::success) {
    shared_.erase(entry);
    return Error(Code::object_lost,
                 fmt::format("memory that was left in place on {} can't be opened: cuIpcOpenMemHandle: {}",
                             name(device), driver_->describe(status)),
                 "has its owner just ended, or does one of the two run in another container?");
  }
  // Who left it there is trusted with the memory, and not with its size.
  Address begin = 0;
  std::size_t bytes = 0;
  const Status asked = driver_->mem_get_address_range(&begin, &bytes, base);
  if (asked != Status::success || begin != base || bytes < memory.bytes) {
    driver_->ipc_close_mem_handle(base);
    shared_.erase(entry);
    if (asked != Status::success) return failed("cuMemGetAddressRange", asked);
    return Error(Code::object_lost,
                 fmt::format("memory that was left in place on {} has {} bytes, and was said to have {}", name(device),
                             bytes, memory.bytes),
                 "its owner has told the daemon something else than CUDA tells here");
  }
  // NOLINTNEXTLINE(performance-no-int-to-ptr): so the driver gives it
  entry->second = {reinterpret_cast<std::byte*>(base), false, 0, std::move(*context)};
  return use(entry->second, memory);
}

Result<void*> Cuda::allocate(int ordinal, std::uint64_t bytes) {
  auto context = context_of(ordinal);
  if (!context) return context.error();
  const Current current(*driver_, **context);
  // The entry is made first, so that nothing can fail once the memory is there.
  std::map<void*, CudaContextPtr> entry{{nullptr, std::move(*context)}};
  Address made = 0;
  if (const Status status = driver_->mem_alloc(&made, bytes); status != Status::success)
    return failed("cuMemAlloc", status);
  auto* const address = reinterpret_cast<void*>(made);  // NOLINT(performance-no-int-to-ptr): so the driver gives it
  auto node = entry.extract(entry.begin());
  node.key() = address;
  const std::lock_guard lock(mutex_);
  allocated_.insert(std::move(node));
  return address;
}

void Cuda::free(void* address) {
  CudaContextPtr context;
  {
    const std::lock_guard lock(mutex_);
    const auto found = allocated_.find(address);
    if (found == allocated_.end()) return;
    context = std::move(found->second);
    allocated_.erase(found);
  }
  const Current current(*driver_, *context);
  driver_->mem_free(address_of(address));
}

Status Cuda::find_ordinal(const void* address, std::optional<int>& ordinal) const {
  const auto known = [](Status status) { return status == Status::invalid_value ? Status::success : status; };
  MemoryType type{};
  int found = 0;
  const Address at = address_of(address);
  if (const Status status = driver_->pointer_get_attribute(&type, PointerAttribute::memory_type, at);
      status != Status::success || type != MemoryType::device)
    return known(status);
  const Status status = driver_->pointer_get_attribute(&found, PointerAttribute::device_ordinal, at);
  if (status == Status::success) ordinal = found;
  return known(status);
}

std::optional<int> Cuda::ordinal_of(const void* address) const {
  std::optional<int> ordinal;
  static_cast<void>(find_ordinal(address, ordinal));
  return ordinal;
}

Result<CudaContextPtr> Cuda::register_host(std::byte* address, std::uint64_t bytes, ipc::Access access) {
  const auto devices = used();
  const bool reads = access == ipc::Access::read_only;
  if (reads && devices.empty()) return CudaContextPtr();
  const gpu::cuda::Device device = devices.empty() ? 0 : devices.front();
  int may_read = 0;
  if (reads)
    driver_->device_get_attribute(&may_read, gpu::cuda::DeviceAttribute::read_only_host_register_supported, device);
  if (reads && may_read == 0) return CudaContextPtr();
  auto context = context_of(device);
  if (!context) return context.error();
  const Current current(*driver_, **context);
  const unsigned flags = gpu::cuda::host_register_portable | (reads ? gpu::cuda::host_register_read_only : 0);
  const Status status = driver_->mem_host_register(address, bytes, flags);
  if (status == Status::success) return context;
  return Error(status == Status::out_of_memory ? Code::out_of_memory : Code::failed,
               fmt::format("memory of the host can't be pinned: cuMemHostRegister: {}", driver_->describe(status)),
               "use memory of the host that need not be pinned: 'cpu'");
}

void Cuda::unregister_host(std::byte* address, const CudaContext& context) {
  const Current current(*driver_, context);
  driver_->mem_host_unregister(address);
}

bool Cuda::is_pinned(const void* address) const {
  MemoryType type{};
  return driver_->pointer_get_attribute(&type, PointerAttribute::memory_type, address_of(address)) == Status::success &&
         type == MemoryType::host;
}

std::optional<std::uint64_t> Cuda::bytes_from(const void* address) const {
  Address begin = 0;
  std::size_t bytes = 0;
  const Address at = address_of(address);
  if (!ordinal_of(address) ||
      driver_->pointer_get_attribute(&begin, PointerAttribute::range_start, at) != Status::success ||
      driver_->pointer_get_attribute(&bytes, PointerAttribute::range_size, at) != Status::success)
    return std::nullopt;
  return begin + bytes - at;
}

Result<CudaContextPtr> Cuda::context_at(const void* address) {
  std::optional<int> ordinal;
  // A context that an illegal access has ended fails every call.
  if (const Status status = find_ordinal(address, ordinal); status != Status::success)
    return failed("cuPointerGetAttribute", status);
  if (ordinal) return context_of(*ordinal);
  return Error(Code::invalid, fmt::format("there is no memory of a GPU at {}", address));
}

Result<void> Cuda::finish(const void* address) {
  auto context = context_at(address);
  if (!context) return context.error();
  const Current current(*driver_, **context);
  if (const Status status = driver_->ctx_synchronize(); status != Status::success)
    return failed("cuCtxSynchronize", status);
  return {};
}

Result<void> Cuda::finish_all() {
  for (const auto device : used()) {
    auto context = context_of(device);
    if (!context) return context.error();
    const Current current(*driver_, **context);
    if (const Status status = driver_->ctx_synchronize(); status != Status::success)
      return failed("cuCtxSynchronize", status);
  }
  return {};
}

Result<void> Cuda::finish_on(Device device, const void* address) {
  switch (device.kind) {
    case Device::Kind::cpu: return {};
    case Device::Kind::pinned: {
      Cuda* const cuda = if_open();
      return cuda ? cuda->finish_all() : Result<void>();
    }
    case Device::Kind::cuda: break;
  }
  auto cuda = get();
  return cuda ? (*cuda)->finish(address) : Result<void>(cuda.error());
}

Result<void> Cuda::finish(const void* address, Stream stream, std::chrono::nanoseconds timeout) {
  auto context = context_at(address);
  if (!context) return context.error();
  const Current current(*driver_, **context);
  OwnEvent done(*driver_);
  if (const Status status = done.create(); status != Status::success) return failed("cuEventCreate", status);
  auto* const handle = static_cast<gpu::cuda::Stream>(stream.handle);
  if (const Status status = driver_->event_record(done.event, handle); status != Status::success)
    return failed("cuEventRecord", status);
  const auto until = std::chrono::steady_clock::now() + timeout;
  for (auto nap = std::chrono::nanoseconds(nap_min);; nap = std::min<std::chrono::nanoseconds>(2 * nap, nap_max)) {
    const Status status = driver_->event_query(done.event);
    if (status == Status::success) return {};
    if (status != Status::not_ready) return failed("cuEventQuery", status);
    if (std::chrono::steady_clock::now() >= until)
      return Error(Code::timeout, "the work of the stream is not over in time", "does a kernel of it hang?");
    std::this_thread::sleep_for(nap);
  }
}

Result<void> Cuda::copy(void* to, const void* from, std::uint64_t bytes) {
  const auto source = ordinal_of(from);
  auto context = context_at(ordinal_of(to) ? to : from);
  if (!context) return context.error();
  const Current current(*driver_, **context);
  OwnStream own(*driver_);
  if (const Status status = own.create(); status != Status::success) return failed("cuStreamCreate", status);
  if (source && ordinal_of(to) && *source != *ordinal_of(to)) {
    auto other = context_of(*source);
    if (!other) return other.error();
    if (const Status status = driver_->memcpy_peer_async(address_of(to), (*context)->get(), address_of(from),
                                                         (*other)->get(), bytes, own.stream);
        status != Status::success)
      return failed("cuMemcpyPeerAsync", status);
  } else if (const Status status = driver_->memcpy_async(address_of(to), address_of(from), bytes, own.stream);
             status != Status::success) {
    return failed("cuMemcpyAsync", status);
  }
  if (const Status status = driver_->stream_synchronize(own.stream); status != Status::success)
    return failed("cuStreamSynchronize", status);
  return {};
}

}  // namespace muster::detail
