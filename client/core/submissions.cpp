// Records to the daemon: through the ring, and through the socket when they are too large for it.
#include <algorithm>
#include <thread>
#include <utility>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/failpoint.hpp>

#include "base/call_deadline.hpp"
#include "connection.hpp"
#include "base/interrupted.hpp"
#include "requests.hpp"

namespace muster::detail {

namespace wire = ipc::wire;
using std::chrono::steady_clock;

namespace {

void hit_before_doorbell(ipc::SubmissionType type) {
  if (type == ipc::SubmissionType::seal) MUSTER_FAILPOINT(sealed);
  if (type == ipc::SubmissionType::pin) MUSTER_FAILPOINT(pinned);
  if (type == ipc::SubmissionType::contribute) MUSTER_FAILPOINT(contributed);
}

/// How much of the ring may lie unread after the record. Each seal may be refused, in more words than it has itself,
/// and the other ring must have room for all of these.
std::size_t unread_max(ipc::SubmissionType type) {
  return type == ipc::SubmissionType::seal ? ipc::ring_bytes / 8 : ipc::ring_bytes;
}

}  // namespace

std::vector<std::byte>& Scratch::spare() {
  static thread_local std::vector<std::byte> bytes;
  return bytes;
}

Result<bool> Connection::submit_now(ipc::SubmissionType type, std::span<const std::byte> body) {
  if (!alive()) return end_error();
  if (body.size() > ipc::record_bytes_max) return false;
  auto written = try_submit({type, body});
  if (!written || !*written) return written;
  announce(type);
  // Who only submits must read, too: the daemon keeps no more for a client than a bounded backlog.
  collect();
  return true;
}

Result<void> Connection::submit(ipc::SubmissionType type, std::span<const std::byte> body) {
  constexpr auto timeout = std::chrono::seconds(30);
  auto written = submit_now(type, body);
  if (!written) return written.error();
  if (*written) return {};
  const Submission record{type, body};
  if (body.size() > ipc::record_bytes_max) {
    if (auto sent = submit_by_socket(record, timeout); !sent) return sent;
  } else {
    if (auto waited = submit_when_there_is_room(record, steady_clock::now() + timeout); !waited) return waited;
    announce(type);
  }
  collect();
  return {};
}

void Connection::submit_soon(ipc::SubmissionType type, std::vector<std::byte> body) {
  if (!alive()) return;
  bool too_many = false;
  {
    const std::lock_guard lock(submit_mutex_);
    submitter_ = std::this_thread::get_id();
    deferred_.push_back({type, std::move(body)});
    too_many = !write_deferred() && deferred_.size() > deferred_max;
    submissions_.publish();
    submitter_ = std::thread::id{};
  }
  if (too_many)
    return end(Error(Code::daemon_unavailable,
                     "the daemon did not read its ring while " + std::to_string(deferred_max) + " calls failed",
                     "is it stopped? look at: muster status"));
  ring_doorbell();
  flush_releases();
}

/// True if nothing is left to write.
bool Connection::write_deferred() {
  while (!deferred_.empty()) {
    const auto& [type, body] = deferred_.front();
    auto written = submissions_.try_write(static_cast<std::uint16_t>(type), body);
    if (!written || !*written) return false;
    deferred_.pop_front();
  }
  return true;
}

Result<void> Connection::submit_by_socket(const Submission& record, std::chrono::nanoseconds timeout) {
  constexpr Submission what_was_deferred{};
  if (auto written = submit_when_there_is_room(what_was_deferred, steady_clock::now() + timeout); !written)
    return written.error();
  if (record.body.size() > ipc::submit_bytes_max)
    return Error(
        Code::invalid,
        "the arrays of this call take a description of " + ipc::over_text(record.body.size(), ipc::submit_bytes_max),
        "use fewer arrays, or several calls");
  // The daemon reads the ring before a frame that was sent later, so what this thread wrote stays in order.
  const std::lock_guard lock(parts_mutex_);
  for (std::size_t offset = 0; offset < record.body.size(); offset += ipc::part_bytes_max) {
    const auto part = record.body.subspan(offset, std::min(ipc::part_bytes_max, record.body.size() - offset));
    const bool more = offset + part.size() < record.body.size();
    auto sent = ask(*this, wire::Body_Submit, timeout, [&](auto& fbb) {
      const auto body = fbb.CreateVector(reinterpret_cast<const std::uint8_t*>(part.data()), part.size());
      return wire::CreateSubmit(fbb, static_cast<std::uint16_t>(record.type), body, offset, more).Union();
    });
    if (!sent) return sent.error();
  }
  hit_before_doorbell(record.type);
  return {};
}

void Connection::announce(ipc::SubmissionType type) {
  hit_before_doorbell(type);
  ring_doorbell();
  if (type == ipc::SubmissionType::contribute) MUSTER_FAILPOINT(contributed_signalled);
  flush_releases();
}

Result<void> Connection::submit_when_there_is_room(const Submission& record, SteadyTime latest) {
  const auto until = CallDeadline::bound(latest);
  // The daemon reads its ring within microseconds, unless it is stopped or gone.
  constexpr unsigned rounds_max = 256;
  constexpr auto nap = std::chrono::microseconds(200);
  ipc::Backoff backoff;
  for (auto next_look = steady_clock::now() + look_up_interval;;) {
    auto written = try_submit(record);
    if (!written) return written.error();
    if (*written) return {};
    collect();
    backoff.step();
    if (backoff.rounds() > rounds_max) std::this_thread::sleep_for(nap);
    if (!alive()) return end_error();
    const auto now = steady_clock::now();
    if (now > until)
      return Error(Code::timeout, "the daemon did not read its ring in time", "is it stopped? look at: muster status");
    if (now < next_look) continue;
    next_look = now + look_up_interval;
    static_cast<void>(receive_if_free());
    if (interrupted()) return Error(Code::timeout, "the wait for room in the ring was interrupted");
  }
}

Result<bool> Connection::try_submit(const Submission& record) {
  const std::lock_guard lock(submit_mutex_);
  submitter_ = std::this_thread::get_id();
  // Idle clients cost no memory; those that work have no faults while they do.
  if (!std::exchange(channel_populated_, true)) channel_.populate();
  write_releases();
  Result<bool> written = write_deferred();
  if (*written && !record.body.empty())
    written = submissions_.try_write(static_cast<std::uint16_t>(record.type), record.body, unread_max(record.type));
  submissions_.publish();
  submitter_ = std::thread::id{};
  if (written && !*written) ipc::signal(doorbell_);
  return written;
}

void Connection::ring_doorbell() {
  if (header().daemon_polls.load(std::memory_order_seq_cst) == 0) ipc::signal(doorbell_);
}

// ---- releases ----

void Connection::hold_ended(ipc::ObjectId object, bool shared) {
  // A hold that a fork brought along is the parent's, and its life line's.
  if (inherited()) return;
  --holds_;
  if (!alive()) return;
  // It never was, so there is nothing to give up.
  if (forget_seal_error(object)) return;
  {
    const std::lock_guard lock(releases_mutex_);
    releases_.push_back(object);
    has_releases_ = true;
  }
  flush_releases();
  if (ipc::maker_of(object) != welcome_.client || !arena_->released(object)) return;
  constexpr std::chrono::nanoseconds until_it_ends = std::chrono::seconds(1);
  constexpr std::chrono::nanoseconds in_case_it_ends = std::chrono::milliseconds(2);
  const bool may_go_on = shared || has_forked_;
  await_end(object, may_go_on ? in_case_it_ends : until_it_ends, wait_again_[may_go_on ? 1 : 0]);
}

void Connection::tell_unmapped(ipc::SegmentId segment) {
  if (!alive()) return;
  {
    const std::lock_guard lock(releases_mutex_);
    unmapped_.push_back(segment);
    has_releases_ = true;
  }
  flush_releases();
}

/// This process may compute for long before it reads the ring again, and meanwhile others may need the memory. After a
/// wait in vain there is none for ten times as long.
void Connection::await_end(ipc::ObjectId object, std::chrono::nanoseconds patience,
                           std::atomic<SteadyTime>& wait_again) {
  const auto begin = std::chrono::steady_clock::now();
  if (begin < wait_again.load(std::memory_order_relaxed)) return;
  ipc::Backoff backoff;
  while (!has_releases_ && !drains_here && alive() && arena_->has(object)) {
    if (std::chrono::steady_clock::now() > begin + patience) {
      wait_again = begin + 10 * patience;
      return arena_->still_held(object);
    }
    collect();
    backoff.step();
  }
}

void Connection::flush_releases() {
  // Who holds the ring comes by here when it has let go; holds end in the oddest places, in its own calls, too.
  while (has_releases_ && alive() && submitter_.load() != std::this_thread::get_id()) {
    std::unique_lock lock(submit_mutex_, std::try_to_lock);
    if (!lock) return;
    submitter_ = std::this_thread::get_id();
    write_releases();
    submissions_.publish();
    submitter_ = std::thread::id{};
    lock.unlock();
    ring_doorbell();
    MUSTER_FAILPOINT(released);
    if (has_releases_) return;  // the ring is full; they go with what is written next
  }
}

bool Connection::write_unmapped() {
  Scratch body;
  while (!unmapped_.empty()) {
    (*body).clear();
    ipc::write(ipc::Unmapped{unmapped_.back()}, *body);
    auto written = submissions_.try_write(static_cast<std::uint16_t>(ipc::SubmissionType::unmapped), *body);
    if (!written || !*written) return false;
    unmapped_.pop_back();
  }
  return true;
}

void Connection::write_releases() {
  if (!has_releases_) return;
  const std::lock_guard lock(releases_mutex_);
  if (!write_unmapped()) return;
  Scratch body;
  while (!releases_.empty()) {
    const auto count = std::min(releases_.size(), ipc::Release::objects_max);
    const auto first = releases_.end() - static_cast<std::ptrdiff_t>(count);
    (*body).clear();
    ipc::write(ipc::Release{{first, releases_.end()}}, *body);
    auto written = submissions_.try_write(static_cast<std::uint16_t>(ipc::SubmissionType::release), *body);
    if (!written || !*written) break;
    releases_.erase(first, releases_.end());
  }
  has_releases_ = !releases_.empty();
}

}  // namespace muster::detail
