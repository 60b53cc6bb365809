// Sends records to the daemon: through the ring, or through the socket if they are too large for the ring.
#include "connection.hpp"

#include <algorithm>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/failpoint.hpp>

#include "base/call_deadline.hpp"
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

}  // namespace

Result<bool> Connection::submit_now(ipc::SubmissionType type, std::span<const std::byte> body) {
  // The ring takes hundreds of records that nobody reads: only the socket shows that the daemon has ended.
  if (alive()) look_at_socket();
  if (!alive()) return end_error();
  if (body.size() > ipc::record_bytes_max) return false;
  auto written = submissions_.try_write({type, body});
  if (!written || !*written) return written;
  announce(type);
  // A client that only submits must read, too: the daemon's backlog for a client is bounded.
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
  if (!submissions_.write_soon(type, std::move(body)))
    return end(Error(Code::daemon_unavailable,
                     fmt::format("the daemon did not read its ring while {} calls failed", Submissions::deferred_max),
                     "is it stopped? look at: muster status"));
  channel_.wake_daemon();
  submissions_.flush_releases();
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
  // The daemon reads the ring before a frame that was sent later, so the records of this thread stay in order.
  const auto latest = CallDeadline::bound(steady_clock::now() + timeout);
  while (
      !sending_parts_.take_or_wait(sending_parts_.seen(), std::min(latest, steady_clock::now() + look_up_interval))) {
    if (!alive()) return end_error();
    if (interrupted()) return Error(Code::timeout, "the wait to send a large record was interrupted");
    if (steady_clock::now() >= latest)
      return Error(Code::timeout, "other threads' large records were not sent in time",
                   "is the daemon stopped? look at: muster status");
  }
  const Turn::Having turn(sending_parts_);
  auto sent = send_parts(record, timeout);
  if (sent) hit_before_doorbell(record.type);
  return sent;
}

Result<void> Connection::send_parts(const Submission& record, std::chrono::nanoseconds timeout) {
  for (std::size_t offset = 0; offset < record.body.size(); offset += ipc::part_bytes_max) {
    const auto part = record.body.subspan(offset, std::min(ipc::part_bytes_max, record.body.size() - offset));
    const bool more = offset + part.size() < record.body.size();
    auto sent = ask(*this, wire::Body_Submit, timeout, [&](auto& fbb) {
      const auto body = fbb.CreateVector(reinterpret_cast<const std::uint8_t*>(part.data()), part.size());
      return wire::CreateSubmit(fbb, static_cast<std::uint16_t>(record.type), body, offset, more).Union();
    });
    if (!sent) return sent.error();
  }
  return {};
}

void Connection::announce(ipc::SubmissionType type) {
  hit_before_doorbell(type);
  channel_.wake_daemon();
  if (type == ipc::SubmissionType::contribute) MUSTER_FAILPOINT(contributed_signalled);
  submissions_.flush_releases();
}

Result<void> Connection::submit_when_there_is_room(const Submission& record, SteadyTime latest) {
  const auto until = CallDeadline::bound(latest);
  // The daemon reads its ring within microseconds, unless it is stopped or gone.
  constexpr unsigned rounds_max = 256;
  constexpr auto nap = std::chrono::microseconds(200);
  ipc::Backoff backoff;
  for (auto next_look = steady_clock::now() + look_up_interval;;) {
    auto written = submissions_.try_write(record);
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

// ---- holds that end ----

void Connection::hold_ended(ipc::ObjectId object, bool shared) {
  // A hold that this process inherited belongs to the parent and to the fork's life line.
  if (inherited()) return;
  --holds_;
  if (!alive()) return;
  if (!locked([&](Protocol& protocol) { return protocol.releases.hold_ended(object); })) return;
  submissions_.flush_releases();
  if (ipc::maker_of(object) != welcome_.client || !arenas_->released(object)) return;
  constexpr std::chrono::nanoseconds until_it_ends = std::chrono::seconds(1);
  constexpr std::chrono::nanoseconds in_case_it_ends = std::chrono::milliseconds(2);
  const bool may_go_on = shared || has_forked_;
  await_end(object, may_go_on ? in_case_it_ends : until_it_ends, wait_again_[may_go_on ? 1 : 0]);
}

/// Waits because this process may compute for long before it reads the ring again, while others may need the memory.
/// After a wait in vain, it does not wait again for ten times as long.
void Connection::await_end(ipc::ObjectId object, std::chrono::nanoseconds patience,
                           std::atomic<SteadyTime>& wait_again) {
  const auto begin = std::chrono::steady_clock::now();
  if (begin < wait_again.load(std::memory_order_relaxed)) return;
  ipc::Backoff backoff;
  while (!protocol_.has_releases() && !drains_here && alive() && arenas_->has(object)) {
    if (std::chrono::steady_clock::now() > begin + patience) {
      wait_again = begin + 10 * patience;
      return arenas_->still_held(object);
    }
    collect();
    backoff.step();
  }
}

std::optional<Error> Connection::seal_error(ipc::ObjectId object) {
  if (!protocol_.has_seal_errors()) return std::nullopt;
  return locked([&](Protocol& protocol) { return protocol.releases.seal_error(object); });
}

}  // namespace muster::detail
