// The hot path: one shared memory area per client with a ring of records in each direction,
// single producer and single consumer. Positions count bytes and never wrap; a record lies in one piece.
// The daemon treats all that the client can write as hostile: it keeps its own positions in private memory,
// copies a record before it looks at it, and checks every length.
//
// Nobody sleeps past a record. A side that may sleep raises its flag, then looks at the ring once more; a side that
// writes publishes first, then looks at the flag. All four steps are sequentially consistent, so at least one of the
// two sees the other:
//   client writes: publish(); daemon_polls == 0 ? signal(doorbell).
//   daemon sleeps: daemon_polls = 0; submissions.empty() ? epoll, on the doorbell too : poll on (daemon_polls = 1).
//   daemon writes: publish(); client_sleeps != 0 ? client_sleeps = 0, futex_wake_all; the same for notify_armed and the
//                  bell.
//   client sleeps: client_sleeps = 1; completions.empty() ? futex_wait(client_sleeps, 1) : client_sleeps = 0.
//   daemon can't write: completions_wait = 1; try_write once more.
//   client has read: completions_wait != 0 ? signal(doorbell).
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <muster/result.hpp>

namespace muster::ipc {

inline constexpr std::size_t ring_bytes = 256 << 10;             ///< of each direction
inline constexpr std::size_t record_bytes_max = ring_bytes / 4;  ///< body of one record
inline constexpr std::uint32_t channel_magic = 0x4d535452;
inline constexpr std::uint32_t channel_version = 3;

/// Lies at the start of the channel's memfd. Zero-filled memory is a valid empty state. Comments name the one side that
/// writes a word. Words that are written with every record have cache lines of their own, so that words that a side
/// only reads stay in its cache.
struct ChannelHeader {
  std::uint32_t magic;
  std::uint32_t version;
  /// Client: how far it has written submissions.
  alignas(64) std::atomic<std::uint64_t> submission_tail;
  /// Daemon: how far it has read submissions.
  alignas(64) std::atomic<std::uint64_t> submission_head;
  /// Daemon: not zero while it polls this ring, so that the client need not signal the doorbell.
  alignas(64) std::atomic<std::uint32_t> daemon_polls;
  /// Daemon: not zero when it has completions that didn't fit. The client signals the doorbell after it has read.
  std::atomic<std::uint32_t> completions_wait;
  /// Daemon: how far it has written completions.
  alignas(64) std::atomic<std::uint64_t> completion_tail;
  /// Client: how far it has read completions.
  alignas(64) std::atomic<std::uint64_t> completion_head;
  /// A futex: the client sets it before it sleeps; the daemon clears it and wakes the client.
  alignas(64) std::atomic<std::uint32_t> client_sleeps;
  /// Client: not zero when the daemon should ring its bell once; the daemon clears it.
  std::atomic<std::uint32_t> notify_armed;
  /// Daemon: not zero while requests wait for memory. A client must not keep memory that it does not use then.
  alignas(64) std::atomic<std::uint32_t> memory_wanted;
};

inline constexpr std::size_t channel_header_bytes = 4096;
inline constexpr std::size_t channel_bytes = channel_header_bytes + 2 * ring_bytes;

/// Stands in front of each record, at a multiple of 8.
struct RecordHeader {
  std::uint32_t body_bytes;
  std::uint16_t type;  ///< 0: padding up to the ring's end
  std::uint16_t flags;
};

struct Record {
  std::uint16_t type = 0;
  std::span<const std::byte> body;
};

/// The writing end of one ring. Not thread-safe.
class RingProducer {
 public:
  RingProducer(std::byte* ring, std::atomic<std::uint64_t>& tail, const std::atomic<std::uint64_t>& head)
      : ring_(ring), shared_tail_(tail), shared_head_(head) {}

  /// Writes one record, unless more than `unread_max` bytes would be unread then. A record larger than that is written
  /// only to an empty ring. Readers see the record after publish(). Invalid if the reader's position is impossible.
  [[nodiscard]] Result<bool> try_write(std::uint16_t type, std::span<const std::byte> body,
                                       std::size_t unread_max = ring_bytes);
  void publish() {
    // The reader looks at this word all the time, and writing the same value again would take the cache line away from
    // it.
    if (published_ == tail_) return;
    published_ = tail_;
    shared_tail_.store(tail_, std::memory_order_seq_cst);
  }
  [[nodiscard]] std::uint64_t position() const { return tail_; }

 private:
  std::byte* ring_;
  /// False if, even with the reader's newest position, `bytes` more would exceed `unread_max`.
  [[nodiscard]] Result<bool> make_room(std::size_t bytes, std::size_t unread_max);

  std::atomic<std::uint64_t>& shared_tail_;
  const std::atomic<std::uint64_t>& shared_head_;
  std::uint64_t tail_ = 0;
  std::uint64_t published_ = 0;
  std::uint64_t seen_head_ = 0;
};

/// The reading end of one ring. Not thread-safe.
class RingConsumer {
 public:
  RingConsumer(const std::byte* ring, const std::atomic<std::uint64_t>& tail, std::atomic<std::uint64_t>& head)
      : ring_(ring), shared_tail_(tail), shared_head_(head) {}

  /// The next record, copied into private memory that stays valid until the next call; nothing if there is none.
  /// Invalid if the other side wrote something impossible; the connection is of no use then.
  [[nodiscard]] Result<std::optional<Record>> next();
  /// True if the reader has reached the writer's newest position.
  [[nodiscard]] bool empty() const { return shared_tail_.load(std::memory_order_seq_cst) == head_; }
  /// The position that the writer claims, which can be anything, and the position of this reader.
  [[nodiscard]] std::uint64_t written() const { return shared_tail_.load(std::memory_order_seq_cst); }
  [[nodiscard]] std::uint64_t read() const { return head_; }

 private:
  /// The header at the reader's position, checked against what has been written and the ring's end.
  [[nodiscard]] Result<RecordHeader> header() const;

  const std::byte* ring_;
  const std::atomic<std::uint64_t>& shared_tail_;
  std::atomic<std::uint64_t>& shared_head_;
  std::uint64_t head_ = 0;
  std::uint64_t seen_tail_ = 0;
  std::vector<std::byte> copy_;
};

/// Sleeps while `word` is `expected`, at most `timeout`; may return early.
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::chrono::nanoseconds timeout);
void futex_wake_all(std::atomic<std::uint32_t>& word);

/// Whether a yield has lately cost a whole slice, as others want the cores and don't give them back soon. A thread that
/// sleeps then gets a core sooner than one that yields. The answer is the same for all threads of the process.
[[nodiscard]] bool is_crowded();

/// One step of an adaptive wait: a pause at first, and after some rounds a yield, unless it is crowded. The caller
/// decides when to sleep.
class Backoff {
 public:
  void step();
  void reset() { *this = {}; }
  [[nodiscard]] unsigned rounds() const { return rounds_; }
  /// Whether a yield has lately let another thread run.
  [[nodiscard]] bool gives_way() const { return rounds_ < gave_way_until_; }

 private:
  unsigned rounds_ = 0;
  unsigned gave_way_until_ = 0;
};

/// How long to spin before sleeping. That is long if the latest waits were short, as falling asleep and being woken
/// would cost more than such a wait. It is hardly at all if they were long.
class Patience {
 public:
  /// The longest time to poll; zero while it is crowded.
  [[nodiscard]] std::chrono::nanoseconds poll_max(const Backoff& backoff) const;
  /// The same, ignoring whether it is crowded. It is short for a thread whose yields let nobody run: either nobody else
  /// wants the core, or the kernel keeps the others out. A thread that was just woken may keep its core through a whole
  /// slice of yields.
  [[nodiscard]] std::chrono::nanoseconds spin_max(const Backoff& backoff) const;
  /// Notes a wait that took this long, sleep included.
  void waited(std::chrono::nanoseconds time);

 private:
  std::chrono::nanoseconds usual_{0};  ///< a moving average
};

}  // namespace muster::ipc
