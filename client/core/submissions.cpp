#include "submissions.hpp"

#include <mutex>
#include <utility>

#include <muster/ipc/failpoint.hpp>

namespace muster::detail {

namespace {

/// How many unread bytes the ring may have after the record. The daemon may refuse each seal, with a record that is
/// longer than the seal, and the ring of completions must have room for all of these.
std::size_t unread_max(ipc::SubmissionType type) {
  return type == ipc::SubmissionType::seal ? ipc::ring_bytes / 8 : ipc::ring_bytes;
}

}  // namespace

class Submissions::Writing {
 public:
  explicit Writing(Submissions& submissions) : submissions_(submissions), lock_(submissions.mutex_) { begin(); }
  Writing(Submissions& submissions, std::try_to_lock_t how)
      : submissions_(submissions), lock_(submissions.mutex_, how) {
    if (lock_) begin();
  }
  Writing(const Writing&) = delete;
  Writing& operator=(const Writing&) = delete;
  ~Writing() {
    if (!lock_) return;
    submissions_.ring_.publish();
    submissions_.writer_ = std::thread::id{};
  }
  explicit operator bool() const { return lock_.owns_lock(); }

 private:
  void begin() { submissions_.writer_ = std::this_thread::get_id(); }

  Submissions& submissions_;
  std::unique_lock<OrderedMutex> lock_;
};

Submissions::Submissions(Channel& channel, GuardedProtocol& protocol)
    : channel_(channel),
      protocol_(protocol),
      ring_(channel.submissions(), channel.header().submission_tail, channel.header().submission_head) {}

Result<bool> Submissions::try_write(const Submission& record) {
  Result<bool> written = true;
  {
    const Writing writing(*this);
    // Populates the ring at the first record: idle clients use no memory, and clients that work have no page faults
    // later.
    if (!std::exchange(is_populated_, true)) channel_.memory.populate();
    write_releases();
    written = write_deferred();
    if (*written && !record.body.empty())
      written = ring_.try_write(static_cast<std::uint16_t>(record.type), record.body, unread_max(record.type));
  }
  if (written && !*written) ipc::signal(channel_.doorbell);
  return written;
}

bool Submissions::write_soon(ipc::SubmissionType type, std::vector<std::byte> body) {
  const Writing writing(*this);
  deferred_.push_back({type, std::move(body)});
  return write_deferred() || deferred_.size() <= deferred_max;
}

/// Returns true if nothing is left to write.
bool Submissions::write_deferred() {
  while (!deferred_.empty()) {
    const auto& [type, body] = deferred_.front();
    auto written = ring_.try_write(static_cast<std::uint16_t>(type), body);
    if (!written || !*written) return false;
    deferred_.pop_front();
  }
  return true;
}

void Submissions::write_releases() {
  if (!protocol_.has_releases()) return;
  protocol_.locked([this](Protocol& protocol) {
    protocol.releases.tell([this](ipc::SubmissionType type, std::span<const std::byte> body) {
      auto written = ring_.try_write(static_cast<std::uint16_t>(type), body);
      return written && *written;
    });
  });
}

void Submissions::flush_releases() {
  // If another thread has the ring, it comes here when it lets go. A hold may end anywhere, even in this thread's own
  // writing.
  while (protocol_.has_releases() && protocol_.alive() && writer_.load() != std::this_thread::get_id()) {
    {
      const Writing writing(*this, std::try_to_lock);
      if (!writing) return;
      write_releases();
    }
    channel_.wake_daemon();
    MUSTER_FAILPOINT(released);
    if (protocol_.has_releases()) return;  // the ring is full; the releases go with the next record
  }
}

void Submissions::lock_for_fork() {
  mutex_.lock_for_fork();
  writer_ = std::this_thread::get_id();
}

void Submissions::unlock_after_fork() {
  writer_ = std::thread::id{};
  mutex_.unlock_after_fork();
}

}  // namespace muster::detail
