#include "gpu_memory.hpp"

#include <unistd.h>

#include <chrono>
#include <new>
#include <optional>
#include <utility>

#include "base/call_deadline.hpp"
#include "device/cuda.hpp"
#include "signals.hpp"

namespace muster::python {

namespace {

/// So long may a library's allocation wait for a daemon that does not answer. One that answers says at once whether
/// there is room.
constexpr auto answer_timeout = std::chrono::seconds(2);

std::optional<detail::ArenaRegion> region_for(const GpuMemory::Wanted& wanted) {
  if (auto region = wanted.arena.allocate_here(wanted.bytes, wanted.call)) return region;
  const detail::CallDeadline deadline(answer_timeout);
  const auto address = wanted.arena.allocate(wanted.bytes, wanted.call, std::chrono::nanoseconds(0));
  return address ? wanted.arena.find(*address) : std::nullopt;
}

}  // namespace

GpuMemory& GpuMemory::instance() {
  static auto* const memory = new GpuMemory;
  return *memory;
}

GpuMemory::GpuMemory() : process_(::getpid()) {}

/// CUDA does not work in a forked child, and another thread may have had the lock when it was forked.
bool GpuMemory::is_forked() const { return ::getpid() != process_; }

/// Counts bytes of an arena as taken, unless that is too much. They are given back at the end if nobody keeps them.
class GpuMemory::Reservation {
 public:
  Reservation(GpuMemory& memory, const Wanted& wanted) : memory_(memory), wanted_(wanted) {
    const std::lock_guard lock(memory_.mutex_);
    const auto found = memory_.bytes_.find(&wanted_.arena);
    const std::uint64_t before = found == memory_.bytes_.end() ? 0 : found->second;
    has_ = wanted_.bytes <= wanted_.limit && before <= wanted_.limit - wanted_.bytes;
    if (has_) memory_.bytes_[&wanted_.arena] = before + wanted_.bytes;
  }
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;
  ~Reservation() {
    if (!has_) return;
    if (region_) wanted_.arena.free(region_->address);
    const std::lock_guard lock(memory_.mutex_);
    memory_.forget_bytes(&wanted_.arena, wanted_.bytes);
  }
  explicit operator bool() const { return has_; }

  /// Null if the store has no room.
  [[nodiscard]] void* keep_region() {
    region_ = region_for(wanted_);
    if (!region_) return nullptr;
    const std::lock_guard lock(memory_.mutex_);
    memory_.taken_.emplace(region_->address, Entry{wanted_.connection, &wanted_.arena, wanted_.bytes});
    has_ = false;
    return region_->address;
  }

 private:
  GpuMemory& memory_;
  const Wanted& wanted_;
  bool has_ = false;
  std::optional<detail::ArenaRegion> region_;
};

GpuMemory::Taken GpuMemory::take(const Wanted& wanted) noexcept try {
  if (is_forked()) return {};
  const SignalsIgnored ignored;
  Reservation reservation(*this, wanted);
  if (!reservation) return {nullptr, NotStored::too_large};
  return {reservation.keep_region(), NotStored::full};
} catch (const std::bad_alloc&) {
  return {};
}

bool GpuMemory::give_back(void* address) noexcept try {
  if (is_forked()) return true;
  const SignalsIgnored ignored;
  Entry entry;
  {
    const std::lock_guard lock(mutex_);
    auto found = taken_.extract(address);
    if (found.empty()) return false;
    entry = std::move(found.mapped());
    forget_bytes(entry.arena, entry.bytes);
  }
  static_cast<void>(detail::Cuda::finish_on(entry.arena->device(), address));
  entry.arena->free(address);
  return true;
} catch (const std::bad_alloc&) {
  return true;  // the region stays taken until the process ends
}

void GpuMemory::forget_bytes(const detail::Arena* arena, std::uint64_t bytes) {
  const auto found = bytes_.find(arena);
  found->second -= bytes;
  if (found->second == 0) bytes_.erase(found);
}

}  // namespace muster::python
