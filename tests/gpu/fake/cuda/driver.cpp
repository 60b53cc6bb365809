#include "driver.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>

namespace fake_gpu {

Driver& driver() {
  static auto& instance = *new Driver();
  return instance;
}

int Driver::physical(int ordinal) const { return device(ordinal).physical; }

int Driver::ordinal(int physical) const {
  for (std::size_t at = 0; at < settings.devices.size(); ++at)
    if (settings.devices[at].physical == physical) return static_cast<int>(at);
  return -1;
}

const DeviceSettings& Driver::device(int ordinal) const {
  return settings.devices.at(static_cast<std::size_t>(ordinal));
}

void Driver::require_device(int ordinal) const {
  require(ordinal >= 0 && static_cast<std::size_t>(ordinal) < settings.devices.size(), CUDA_ERROR_INVALID_DEVICE);
}

std::vector<Context*> Driver::contexts() const {
  std::vector<Context*> all;
  for (const auto& context : primaries) all.push_back(context.get());
  for (const auto& [raw, context] : created) all.push_back(raw);
  return all;
}

Context* Driver::context(CUcontext handle) const {
  for (auto* context : contexts())
    if (context->handle() == handle) return context;
  return nullptr;
}

bool Driver::can_access_peer(int ordinal, int peer) const {
  return settings.can_access_peer(physical(ordinal), physical(peer));
}

void forget_range(const std::shared_ptr<Range>& range) {
  auto& state = driver();
  switch (range->kind) {
    case Range::Kind::reservation: count(0, Item::reservations, -1); break;
    case Range::Kind::ipc: count(state.physical(range->device), Item::ipc_imports, -1); break;
    case Range::Kind::allocation:
    case Range::Kind::pool: count(state.physical(range->device), Item::allocations, -1); break;
  }
  if (range->exported) std::filesystem::remove(ipc_export_path(this_process(), range->number));
  state.addresses.remove(range);
}

void forget_host_range(const HostRange& range) {
  const auto item = range.registered ? Item::host_registrations : Item::host_allocations;
  count(driver().physical(range.owner->ordinal()), item, -1);
  if (!range.registered) ::munmap(range.base, range.bytes);
  driver().addresses.remove_host(range.base);
}

CUmemoryPool default_pool(int ordinal) {
  static std::array<char, devices_max> pools{};
  return reinterpret_cast<CUmemoryPool>(&pools.at(static_cast<std::size_t>(ordinal)));
}

Call::Call(const char* name, Need need) : name_(name) {
  stalled_by() = 0;
  require(running() == nullptr, CUDA_ERROR_NOT_PERMITTED);
  lock = std::unique_lock(driver().mutex);
  require_initialized(need);
  require_context(need);
}

void Call::require_initialized(Need need) const {
  require(!driver().forked, CUDA_ERROR_NOT_INITIALIZED);
  require(need == Need::nothing || driver().initialized, CUDA_ERROR_NOT_INITIALIZED);
}

// "CUDA Driver API, Data types used by CUDA driver": CUDA_ERROR_INVALID_CONTEXT without a context,
// CUDA_ERROR_CONTEXT_IS_DESTROYED with one that has ended. After an error like CUDA_ERROR_ILLEGAL_ADDRESS "any further
// CUDA work will return the same error".
void Call::require_context(Need need) {
  if (need == Need::nothing) return inject(-1, false);
  auto& stack = current_contexts();
  context_ = stack.empty() ? nullptr : stack.back();
  const bool needed = need == Need::context || need == Need::any_context;
  if (needed) {
    require(context_ != nullptr, CUDA_ERROR_INVALID_CONTEXT);
    require(context_->active(), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  }
  const bool usable = context_ != nullptr && context_->active();
  injected_for_ = usable ? context_->ordinal() : -1;
  inject(injected_for_, false);
  if (need == Need::context || (need == Need::healthy && usable)) require(context_->broken() == 0, context_->broken());
}

void Call::on(int ordinal) {
  if (ordinal == injected_for_) return;
  injected_for_ = ordinal;
  inject(ordinal, true);
}

void Call::inject(int ordinal, bool only_device) {
  const int physical = ordinal < 0 ? -1 : driver().physical(ordinal);
  lock.unlock();
  const auto failure = injected(name_, physical, only_device);
  lock.lock();
  if (failure.stalled_by != 0) stalled_by() = failure.stalled_by;
  if (failure.code == CUDA_SUCCESS) return;
  if (failure.breaks_context) {
    for (auto* context : driver().contexts())
      if (context->active() && (context == context_ || context->ordinal() == ordinal))
        context->break_with(failure.code);
  }
  throw Failure{failure.code};
}

void Call::wait_for(const std::vector<StreamPoint>& points) {
  wait([&] { return std::all_of(points.begin(), points.end(), [](const auto& point) { return point.reached(); }); });
}

void Call::drain(const Context& context) {
  std::vector<StreamPoint> points;
  for (const auto& stream : context.all_streams()) points.push_back(stream->end());
  wait_for(points);
}

void Call::drain(int ordinal) {
  std::vector<StreamPoint> points;
  for (auto* context : driver().contexts()) {
    if (!context->active() || context->ordinal() != ordinal) continue;
    for (const auto& stream : context->all_streams()) points.push_back(stream->end());
  }
  wait_for(points);
}

void Call::drain_all() {
  for (std::size_t ordinal = 0; ordinal < driver().primaries.size(); ++ordinal) drain(static_cast<int>(ordinal));
}

}  // namespace fake_gpu
