#include "gpu_call.hpp"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "base/call_deadline.hpp"
#include "bindings.hpp"
#include "core/requests.hpp"
#include "device/cuda.hpp"
#include "device_array.hpp"
#include "gil.hpp"
#include "gpu_memory.hpp"
#include "ops/objects.hpp"

namespace muster::python {

struct GpuCall::State {
  ConnectionPtr connection;
  detail::Arena& arena;
  int ordinal;
  std::uint64_t limit;
  std::uint64_t id = 0;
  Refusals refused;
  NotStored last_refusal = NotStored::full;

  [[nodiscard]] void* take(std::uint64_t bytes) noexcept {
    const auto taken = GpuMemory::instance().take({connection, arena, bytes, id, limit});
    if (!taken.address) last_refusal = taken.why;
    return taken.address;
  }
  void note(const void* address, std::uint64_t bytes) noexcept { refused.add(address, bytes, last_refusal); }
};

namespace {

std::atomic<std::uint64_t> last_call{0};

using States = std::vector<std::shared_ptr<GpuCall::State>>;
/// The calls that this thread is in, at most one for each GPU.
thread_local States entered;

States::iterator entered_on(int ordinal) {
  return std::ranges::find_if(entered, [&](const auto& state) { return state->ordinal == ordinal; });
}

/// The owner of memory that CuPy has.
struct GpuRegion {
  explicit GpuRegion(void* address_) : address(address_) {}
  GpuRegion(const GpuRegion&) = delete;
  GpuRegion& operator=(const GpuRegion&) = delete;
  ~GpuRegion() {
    if (!address) return;
    unlocked([&] { GpuMemory::instance().give_back(address); });
  }
  void* address;
};

/// Memory that is not the store's.
void* plain_memory(int ordinal, std::uint64_t bytes) noexcept try {
  auto cuda = detail::Cuda::get();
  if (!cuda) return nullptr;
  const auto made = (*cuda)->allocate(ordinal, bytes);
  return made ? *made : nullptr;
} catch (const std::bad_alloc&) {
  return nullptr;
}

void free_plain_memory(void* address) noexcept try {
  if (auto* const cuda = detail::Cuda::if_open()) cuda->free(address);
} catch (const std::bad_alloc&) {
  // It stays taken until the process ends.
}

}  // namespace

GpuCall::GpuCall(ConnectionPtr connection, detail::Arena& arena, std::uint64_t memory_bytes, int ordinal)
    : state_(new State{std::move(connection), arena, ordinal, share_of_call(memory_bytes), ++last_call, {}, {}}) {}

GpuCall::~GpuCall() { leave(); }

bool GpuCall::enter() {
  if (entered_on(state_->ordinal) != entered.end()) return false;
  entered.push_back(state_);
  return true;
}

void GpuCall::leave() { std::erase(entered, state_); }

int GpuCall::ordinal() const { return state_->ordinal; }

std::optional<detail::ArenaRegion> GpuCall::find(const void* data) const {
  auto region = state_->arena.find(data);
  return region && region->call == state_->id ? region : std::nullopt;
}

NotStored GpuCall::why_not_stored(const void* data) const { return state_->refused.why(data); }

nb::object GpuCall::allocate(std::uint64_t bytes) {
  auto owner = std::make_unique<GpuRegion>(nullptr);
  // From this size on, regions begin at pages. Libraries expect what cudaMalloc() gives: at least 256 bytes.
  bytes = std::max(bytes, ipc::RegionAllocator::large_bytes_min);
  owner->address = unlocked([&] { return state_->take(bytes); });
  return owner->address ? nb::cast(std::move(owner)) : nb::none();
}

void GpuCall::refused(std::uintptr_t address, std::uint64_t bytes) {
  state_->note(reinterpret_cast<const void*>(address), bytes);  // NOLINT(performance-no-int-to-ptr): so Python has it
}

namespace {

/// The devices on which this process has made calls.
class FirstCalls {
 public:
  [[nodiscard]] bool is_first(const Connection& connection, Device device) {
    const std::lock_guard lock(mutex_);
    return had_.emplace(connection.welcome().incarnation, device.index).second;
  }
  [[nodiscard]] static FirstCalls& all() {
    static FirstCalls calls;
    return calls;
  }

 private:
  std::mutex mutex_;
  std::set<std::pair<std::uint64_t, std::uint8_t>> had_;
};

/// Allocations in calls wait for the daemon for a short time, and what has no room then is copied. A GPU that nobody
/// has used needs longer: its worker starts, and so does CUDA here.
void wake(detail::Arena& arena, std::chrono::nanoseconds wait) {
  const detail::CallDeadline deadline(wait);
  const auto region = arena.allocate(1, 0, wait);
  if (region) arena.free(*region);
}

std::unique_ptr<GpuCall> gpu_call_on(const ConnectionPtr& connection, nb::handle device, nb::handle timeout) {
  const Device there = device_from(device);
  auto& arena = *value_or_raise(detail::arena_on(*connection, there));
  const int ordinal = call_unlocked([&] { return ordinal_on(*connection, there); });
  constexpr std::chrono::nanoseconds patience = std::chrono::seconds(10);
  const auto wait = std::min(deadline_from(timeout).value_or(patience), patience);
  if (FirstCalls::all().is_first(*connection, there)) unlocked([&] { wake(arena, wait); });
  const auto& devices = connection->welcome().devices;
  const auto memory = std::ranges::find(devices, there, [](const auto& each) { return each.device; });
  return std::make_unique<GpuCall>(connection, arena, memory->bytes, ordinal);
}

}  // namespace

void bind_gpu_call(nb::module_& module) {
  nb::class_<GpuRegion>(module, "GpuRegion").def_prop_ro("address", [](const GpuRegion& self) {
    return reinterpret_cast<std::uintptr_t>(self.address);
  });
  nb::class_<GpuCall>(module, "GpuCall")
      .def("enter", &GpuCall::enter)
      .def("leave", &GpuCall::leave)
      .def("allocate", &GpuCall::allocate, nb::arg("size"))
      .def("refused", &GpuCall::refused, nb::arg("address"), nb::arg("size"))
      .def_prop_ro("ordinal", &GpuCall::ordinal);
  module.def("gpu_call_on", &gpu_call_on, nb::arg("connection"), nb::arg("device"), nb::arg("timeout").none());
}

}  // namespace muster::python

// PyTorch's CUDAPluggableAllocator finds these two by their names, and calls them under its lock, with and without the
// GIL. A cudaStream_t is a pointer.
extern "C" {

__attribute__((visibility("default"))) void* muster_gpu_alloc(ssize_t size, int device, void* /*stream*/) {
  using namespace muster::python;
  if (size <= 0) return nullptr;
  const auto bytes = static_cast<std::uint64_t>(size);
  const auto call = entered_on(device);
  if (call == entered.end()) return plain_memory(device, bytes);
  if (void* const address = (*call)->take(bytes)) return address;
  void* const address = plain_memory(device, bytes);
  (*call)->note(address, bytes);
  return address;
}

__attribute__((visibility("default"))) void muster_gpu_free(void* address, ssize_t /*size*/, int /*device*/,
                                                            void* /*stream*/) {
  using namespace muster::python;
  if (address && !GpuMemory::instance().give_back(address)) free_plain_memory(address);
}
}
