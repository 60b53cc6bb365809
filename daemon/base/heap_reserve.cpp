#include "base/heap_reserve.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <new>

namespace musterd {

namespace {

/// Pieces are small, so that they fit into free memory between other blocks, and come from where small blocks do.
constexpr std::size_t piece_bytes = 8 << 10;
constexpr std::size_t pieces_max = 1024;

class Reserve {
 public:
  void keep(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    wanted_ = std::min(bytes / piece_bytes, pieces_max);
    fill();
  }

  /// False if the reserve was empty.
  bool spend() {
    const std::lock_guard lock(mutex_);
    if (held_ == 0) return false;
    while (held_ > 0) ::operator delete(pieces_[--held_]);
    whole_.store(false, std::memory_order_relaxed);
    return true;
  }

  bool is_short() {
    if (whole_.load(std::memory_order_relaxed)) return false;
    const std::lock_guard lock(mutex_);
    fill();
    return held_ < (wanted_ + 1) / 2;
  }

  /// Whether the allocation that fails is the reserve's own: this thread then has the lock.
  [[nodiscard]] static bool is_filling() { return filling_; }

 private:
  void fill() {
    filling_ = true;
    while (held_ < wanted_) {
      void* piece = ::operator new(piece_bytes, std::nothrow);
      if (piece == nullptr) break;
      pieces_[held_++] = piece;
    }
    filling_ = false;
    whole_.store(held_ == wanted_, std::memory_order_relaxed);
  }

  static thread_local bool filling_;
  std::mutex mutex_;
  std::array<void*, pieces_max> pieces_{};
  std::size_t held_ = 0;
  std::size_t wanted_ = 0;
  std::atomic<bool> whole_{true};
};

thread_local bool Reserve::filling_ = false;

Reserve& reserve() {
  static Reserve* const kept = new Reserve;  // never destroyed: allocations may fail until the process ends
  return *kept;
}

const muster::Error no_heap_error(
    muster::Code::out_of_memory, "the daemon has no memory left for itself",
    "raise what limits its process (ulimit -v, cgroup), or start it with a smaller --memory");

void spend_or_throw() {
  if (Reserve::is_filling() || !reserve().spend()) throw std::bad_alloc();
}

}  // namespace

void keep_heap_reserve(std::size_t bytes) {
  reserve().keep(bytes);
  std::set_new_handler(spend_or_throw);
}

bool heap_is_short() { return reserve().is_short(); }

const muster::Error& no_heap() { return no_heap_error; }

}  // namespace musterd
