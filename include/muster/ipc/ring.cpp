// A producer keeps each record in one piece by padding up to the ring's end. A consumer trusts nothing that it reads in
// the ring.
#include <muster/ipc/ring.hpp>

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <climits>
#include <cstring>
#include <ctime>
#include <string>

#include <fmt/format.h>

#include <muster/ipc/time_limits.hpp>

namespace muster::ipc {

static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::atomic<std::uint32_t>::is_always_lock_free);
static_assert(sizeof(ChannelHeader) <= channel_header_bytes);
static_assert(sizeof(RecordHeader) == 8 && ring_bytes % 8 == 0);

namespace {

std::size_t space_for(std::size_t body_bytes) { return sizeof(RecordHeader) + (body_bytes + 7) / 8 * 8; }

Error broken(const char* what, std::uint64_t value, std::uint64_t own) {
  return {Code::invalid, fmt::format("broken ring: {} {} at position {}", what, value, own),
          "the other side broke the protocol; connect anew"};
}

/// Reads the header once: the other side may be changing it, so a second read could see something else.
RecordHeader load_header(const std::byte* address) {
  return std::bit_cast<RecordHeader>(
      __atomic_load_n(reinterpret_cast<const std::uint64_t*>(address), __ATOMIC_RELAXED));
}

void store_header(std::byte* address, const RecordHeader& header) {
  __atomic_store_n(reinterpret_cast<std::uint64_t*>(address), std::bit_cast<std::uint64_t>(header), __ATOMIC_RELAXED);
}

}  // namespace

Result<bool> RingProducer::make_room(std::size_t bytes, std::size_t unread_max) {
  const auto has_room = [&] {
    const std::size_t unread = tail_ - seen_head_;
    return unread + bytes <= unread_max || (unread == 0 && bytes <= ring_bytes);
  };
  if (has_room()) return true;
  const auto head = shared_head_.load(std::memory_order_seq_cst);
  if (head < seen_head_ || head > tail_ || head % 8 != 0) return broken("its reader's position is", head, tail_);
  seen_head_ = head;
  return has_room();
}

Result<bool> RingProducer::try_write(std::uint16_t type, std::span<const std::byte> body, std::size_t unread_max) {
  if (type == 0 || body.size() > record_bytes_max)
    return Error(Code::invalid, fmt::format("the record can't go through the ring: type {}, {} bytes of at most {}",
                                            type, body.size(), record_bytes_max));
  const std::size_t space = space_for(body.size());
  const std::size_t to_end = ring_bytes - tail_ % ring_bytes;
  const std::size_t padding = space > to_end ? to_end : 0;
  auto room = make_room(padding + space, unread_max);
  if (!room || !*room) return room;
  if (padding != 0) {
    store_header(ring_ + tail_ % ring_bytes, {static_cast<std::uint32_t>(padding - sizeof(RecordHeader)), 0, 0});
    tail_ += padding;
  }
  std::byte* place = ring_ + tail_ % ring_bytes;
  store_header(place, {static_cast<std::uint32_t>(body.size()), type, 0});
  if (!body.empty()) std::memcpy(place + sizeof(RecordHeader), body.data(), body.size());
  tail_ += space;
  return true;
}

Result<RecordHeader> RingConsumer::header() const {
  const std::uint64_t written = seen_tail_ - head_;
  const std::size_t to_end = ring_bytes - head_ % ring_bytes;
  const auto header = load_header(ring_ + head_ % ring_bytes);
  if (header.body_bytes > record_bytes_max) return broken("a record's bytes are", header.body_bytes, head_);
  if (header.flags != 0) return broken("a record's flags are", header.flags, head_);
  const std::size_t space = space_for(header.body_bytes);
  if (space > written || space > to_end) return broken("a record crosses an end, bytes", header.body_bytes, head_);
  if (header.type == 0 && space != to_end)
    return broken("padding ends before the ring does, bytes", header.body_bytes, head_);
  return header;
}

Result<std::optional<Record>> RingConsumer::next() {
  constexpr std::size_t copy_bytes_kept = 8192;
  while (true) {
    if (head_ == seen_tail_) {
      const auto tail = shared_tail_.load(std::memory_order_seq_cst);
      if (tail == head_) {
        // The memory of a large record is not kept for the next one.
        if (copy_.size() > copy_bytes_kept) copy_ = {};
        return std::optional<Record>{};
      }
      if (tail - head_ > ring_bytes || tail % 8 != 0) return broken("its writer's position is", tail, head_);
      seen_tail_ = tail;
    }
    const auto found = header();
    if (!found) return found.error();
    const std::size_t bytes = found->body_bytes;
    if (found->type != 0) {
      if (copy_.size() < bytes) copy_.resize(bytes);
      if (bytes != 0) std::memcpy(copy_.data(), ring_ + head_ % ring_bytes + sizeof(RecordHeader), bytes);
    }
    head_ += space_for(bytes);
    shared_head_.store(head_, std::memory_order_seq_cst);
    if (found->type != 0) return std::optional(Record{found->type, std::span(copy_).first(bytes)});
  }
}

void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::chrono::nanoseconds timeout) {
  using std::chrono::duration_cast, std::chrono::seconds;
  // No wait is longer than this in one call, and it is safe for every kernel's time arithmetic.
  const auto bounded = std::clamp<std::chrono::nanoseconds>(timeout, std::chrono::nanoseconds::zero(), timeout_max);
  const auto whole = duration_cast<seconds>(bounded);
  const timespec time{static_cast<time_t>(whole.count()), static_cast<long>((bounded - whole).count())};
  // Not FUTEX_PRIVATE, as processes share the word.
  syscall(SYS_futex, &word, FUTEX_WAIT, expected, &time, nullptr, 0);
}

void futex_wake_all(std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

/// Notices that more threads want the cores than there are. Once yields have cost two slices in a row, no thread yields
/// for a while. If that happens again soon after, the while gets longer.
class Oversubscription {
 public:
  [[nodiscard]] bool is_there() {
    auto until = until_.load(std::memory_order_relaxed);
    if (until == SteadyTime()) return false;
    if (std::chrono::steady_clock::now() < until) return true;
    until_.compare_exchange_strong(until, SteadyTime(), std::memory_order_relaxed);
    return false;
  }
  void yielded(SteadyTime before, SteadyTime now) {
    using namespace std::chrono_literals;
    constexpr auto slice_min = 500us;
    constexpr auto row_max = 5ms;
    constexpr auto length_min = 20ms;
    constexpr auto length_max = 80ms;
    if (now - before < slice_min) return;
    // A single lost slice may be chance: a timer, a kernel thread.
    const auto last = last_loss_.exchange(now, std::memory_order_relaxed);
    if (last == SteadyTime() || before - last > row_max) return;
    const auto length = length_.load(std::memory_order_relaxed);
    const bool soon = before < last_until_.load(std::memory_order_relaxed) + length;
    const auto next = soon ? std::min<std::chrono::nanoseconds>(2 * length, length_max) : length_min;
    length_.store(next, std::memory_order_relaxed);
    last_until_.store(now + next, std::memory_order_relaxed);
    until_.store(now + next, std::memory_order_relaxed);
  }

 private:
  std::atomic<SteadyTime> last_loss_{SteadyTime()};
  std::atomic<SteadyTime> until_{SteadyTime()};  ///< unset once it has passed, so that no clock is read then
  std::atomic<SteadyTime> last_until_{SteadyTime()};
  std::atomic<std::chrono::nanoseconds> length_{std::chrono::nanoseconds(0)};
};

Oversubscription oversubscription;

}  // namespace

bool is_crowded() { return oversubscription.is_there(); }

std::chrono::nanoseconds Patience::poll_max(const Backoff& backoff) const {
  return is_crowded() ? std::chrono::nanoseconds(0) : spin_max(backoff);
}

std::chrono::nanoseconds Patience::spin_max(const Backoff& backoff) const {
  using namespace std::chrono_literals;
  if (!backoff.gives_way()) return 30us;
  return usual_ <= 250us ? 1ms : 60us;
}

void Patience::waited(std::chrono::nanoseconds time) {
  // One long wait makes it impatient, and it takes a few short ones in a row to make it patient again.
  constexpr std::chrono::nanoseconds counted_max = std::chrono::milliseconds(4);
  constexpr int weight = 8;
  usual_ += (std::min(time, counted_max) - usual_) / weight;
}

void Backoff::step() {
  // With more waiters than cores, the process that is waited for needs this core. So this yields soon.
  constexpr unsigned pauses = 2;
  if (++rounds_ > pauses && !is_crowded()) {
    constexpr auto switch_min = std::chrono::nanoseconds(600);
    constexpr unsigned rounds_remembered = 32;
    const auto before = std::chrono::steady_clock::now();
    sched_yield();
    const auto now = std::chrono::steady_clock::now();
    if (now - before >= switch_min) gave_way_until_ = rounds_ + rounds_remembered;
    oversubscription.yielded(before, now);
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace muster::ipc
