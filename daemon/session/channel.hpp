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

/// A client can punch holes into its rings until they are sealed, which happens once it has mapped them. Until then, a
/// thread that touches or unmaps them waits for as long as the client likes. So nothing of them is touched before
/// open().
class Channel {
 public:
  [[nodiscard]] static muster::Result<std::unique_ptr<Channel>> create();

  /// The descriptors that the client gets with its Welcome, in this order: channel, doorbell, notify.
  [[nodiscard]] std::vector<int> descriptors() const { return {memory_.get(), doorbell_.get(), bell_.listener.get()}; }
  /// May take as long as the client likes, if the client has the descriptors.
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  /// Called when the client has mapped its rings. From now on nobody else can map them or punch holes into them, and no
  /// page of them faults later. May take as long as the client likes.
  [[nodiscard]] muster::Result<void> seal();
  /// The rings are sealed, so from now on they are read and written.
  void open() { open_ = true; }

  /// The client has the descriptors.
  void handed_over() { bell_.listener.reset(); }
  [[nodiscard]] int doorbell() const { return doorbell_.get(); }
  void clear_doorbell() { muster::ipc::drain(doorbell_); }

  /// The next submission; nothing if there is none; an error if the client broke the ring.
  [[nodiscard]] muster::Result<std::optional<muster::ipc::Record>> next();
  [[nodiscard]] bool has_submissions() const { return open_ && !submissions_.empty(); }
  /// Positions of submissions: how far the client has published, and how far the daemon has read. The client can claim
  /// any position, and is believed up to one ring beyond what was read.
  [[nodiscard]] std::uint64_t published() const {
    return read() + std::min<std::uint64_t>(submissions_.written() - read(), muster::ipc::ring_bytes);
  }
  [[nodiscard]] std::uint64_t read() const { return submissions_.read(); }
  /// The client doesn't ring the doorbell while it is polled.
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
  /// Publishes the completions that fit. Fails if the client broke the ring.
  [[nodiscard]] muster::Result<void> flush();
  /// Whether the client sleeps, or wants its bell to be rung. If so, wake() must follow flush().
  [[nodiscard]] bool is_waited_for() const;
  void wake();
  /// Lets a client that polls see what was written so far. A client that sleeps hears of it by wake().
  void publish() { completions_.publish(); }

  /// How many bytes the completions take that wait for room in the ring.
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
    /// Includes what malloc and the map of news add.
    [[nodiscard]] std::size_t bytes() const { return sizeof(Waiting) + 128 + body.size(); }
  };

  muster::ipc::Fd memory_;
  muster::ipc::Mapping mapping_;
  muster::ipc::Fd doorbell_;
  muster::ipc::Bell bell_;  ///< rung for a client that watches a descriptor
  muster::ipc::RingConsumer submissions_;
  muster::ipc::RingProducer completions_;
  std::deque<Waiting> backlog_;
  std::uint64_t popped_ = 0;               ///< how many completions have left the backlog
  std::map<Subject, std::uint64_t> news_;  ///< by subject: the number of the completion in the backlog
  std::size_t backlog_bytes_ = 0;
  bool waits_for_room_ = false;  ///< the client was asked to say when there is room
  bool sealed_ = false;
  bool open_ = false;
};

}  // namespace musterd
