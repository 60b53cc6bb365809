// The daemon's end of one client's rings. All that the client can write is read through RingConsumer's checks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/records.hpp>
#include <muster/ipc/ring.hpp>
#include <muster/result.hpp>

namespace musterd {

/// Until the client has mapped the rings and they are sealed, it can punch holes into them, and who touches them or
/// unmaps them then waits for as long as it likes. So nothing of them is touched before open().
class Channel {
 public:
  [[nodiscard]] static muster::Result<std::unique_ptr<Channel>> create();

  /// What the client gets with its Welcome, in this order: channel, doorbell, notify.
  [[nodiscard]] std::vector<int> descriptors() const { return {memory_.get(), doorbell_.get(), bell_.listener.get()}; }
  /// Takes as long as the client likes if it has the descriptors.
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  /// The client has mapped its rings: nobody else can from now on, or punch holes into them, and no page of them faults
  /// later. Takes as long as the client likes.
  [[nodiscard]] muster::Result<void> seal();
  /// They are sealed, so they are read and written from now on.
  void open() { open_ = true; }

  /// The client has them.
  void handed_over() { bell_.listener.reset(); }
  [[nodiscard]] int doorbell() const { return doorbell_.get(); }
  void clear_doorbell() { muster::ipc::drain(doorbell_); }

  /// The next submission; nothing if there is none; an error if the client broke the ring.
  [[nodiscard]] muster::Result<std::optional<muster::ipc::Record>> next();
  [[nodiscard]] bool has_submissions() const { return open_ && !submissions_.empty(); }
  /// Positions of submissions: up to where the client has published, and what has been read. It can say that it has
  /// published anything, and is believed as far as the ring goes.
  [[nodiscard]] std::uint64_t published() const {
    return read() + std::min<std::uint64_t>(submissions_.written() - read(), muster::ipc::ring_bytes);
  }
  [[nodiscard]] std::uint64_t read() const { return submissions_.read(); }
  /// While polled, the client doesn't ring the doorbell.
  void set_polled(bool polled) {
    if (open_) header().daemon_polls.store(polled ? 1 : 0, std::memory_order_seq_cst);
  }

  /// Shows the client whether somebody waits for memory.
  void show_memory_wanted(bool wanted) {
    if (open_) header().memory_wanted.store(wanted ? 1 : 0, std::memory_order_relaxed);
  }

  /// Queues one completion; the client sees it after flush(). Fails if the client broke the ring, or lets more
  /// than `backlog_bytes_max` pile up.
  [[nodiscard]] muster::Result<void> complete(muster::ipc::CompletionType type, std::span<const std::byte> body);
  /// Publishes what fits. Fails if the client broke the ring.
  [[nodiscard]] muster::Result<void> flush();
  /// Whether it sleeps, or wants its bell to be rung: then wake(), after flush().
  [[nodiscard]] bool is_waited_for() const;
  void wake();
  /// Lets a client that polls see what was written so far; one that sleeps hears of it by wake().
  void publish() { completions_.publish(); }

  /// What waits for room in the ring takes so much.
  [[nodiscard]] std::size_t backlog_bytes() const { return backlog_bytes_; }

  static constexpr std::size_t backlog_bytes_max = 64 << 20;

 private:
  Channel(muster::ipc::Fd memory, muster::ipc::Mapping mapping, muster::ipc::Fd doorbell, muster::ipc::Bell bell);
  [[nodiscard]] muster::ipc::ChannelHeader& header() const {
    return *reinterpret_cast<muster::ipc::ChannelHeader*>(mapping_.data());
  }
  [[nodiscard]] std::byte* ring(std::size_t index) const {
    return mapping_.data() + muster::ipc::channel_header_bytes + index * muster::ipc::ring_bytes;
  }

  using Subject = std::pair<muster::ipc::CompletionType, muster::ipc::SeatId>;
  [[nodiscard]] static std::optional<Subject> subject_of(muster::ipc::CompletionType type,
                                                         std::span<const std::byte> body);
  [[nodiscard]] bool replaces_another(const Subject& subject, std::span<const std::byte> body);
  void pop_backlog();
  struct Waiting {
    std::uint16_t type;
    std::vector<std::byte> body;
    /// With what malloc and the map of news add.
    [[nodiscard]] std::size_t bytes() const { return sizeof(Waiting) + 128 + body.size(); }
  };

  muster::ipc::Fd memory_;
  muster::ipc::Mapping mapping_;
  muster::ipc::Fd doorbell_;
  muster::ipc::Bell bell_;  ///< rung for a client that watches a descriptor
  muster::ipc::RingConsumer submissions_;
  muster::ipc::RingProducer completions_;
  std::deque<Waiting> backlog_;
  std::uint64_t popped_ = 0;               ///< how many have left it
  std::map<Subject, std::uint64_t> news_;  ///< which of all that were ever in it are news
  std::size_t backlog_bytes_ = 0;
  bool waits_for_room_ = false;  ///< has asked the client to say when there is some
  bool sealed_ = false;
  bool open_ = false;
};

}  // namespace musterd
