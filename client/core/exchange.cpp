// Requests and replies on the socket. One thread at a time receives for all.
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <utility>

#include <muster/ipc/failpoint.hpp>
#include <muster/ipc/text.hpp>

#include "base/bounded_time.hpp"
#include "base/call_deadline.hpp"
#include "connection.hpp"
#include "base/interrupted.hpp"
#include "requests.hpp"
#include "start_daemon.hpp"

namespace muster::detail {

namespace wire = ipc::wire;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

std::string text(const flatbuffers::String* string) { return string ? string->str() : std::string(); }

Error no_answer(const std::string& socket, steady_clock::duration waited) {
  return {Code::timeout, "the daemon at " + socket + " did not answer within " + ipc::seconds_text(waited),
          "is it stopped, or is the machine too busy? muster status"};
}

Result<ipc::Packet> checked(ipc::Packet packet) {
  const auto* failure = wire::GetFrame(packet.bytes.data())->body_as_Failure();
  if (!failure) return packet;
  std::vector<int> ranks;
  if (failure->ranks()) ranks.assign(failure->ranks()->begin(), failure->ranks()->end());
  return Error(static_cast<Code>(failure->code()), text(failure->message()), text(failure->hint()), std::move(ranks));
}

void hit_sent(wire::Body asked) {
  if (asked == wire::Body_Join) MUSTER_FAILPOINT(joining);
  if (asked == wire::Body_Lookup) MUSTER_FAILPOINT(lookup);
}

}  // namespace

Result<ipc::Packet> Connection::request(const Build& build, std::chrono::nanoseconds timeout, const Stop& stop) {
  if (!alive()) return end_error();
  const auto begin = steady_clock::now();
  const auto until = CallDeadline::bound(begin + bounded(timeout));
  std::unique_lock lock(reply_mutex_);
  const auto number = ++last_request_;
  replies_.emplace(number, std::nullopt);
  lock.unlock();
  const auto frame = build(number);
  const auto asked = wire::GetFrame(frame.data())->body_type();
  if (auto sent = send_frame(frame, until); !sent) return abandon(number, wire::Body_NONE, sent.error());
  hit_sent(asked);
  for (auto next_look = steady_clock::now() + look_up_interval;;) {
    if (steady_clock::now() > next_look) {
      // Nobody may be called back under a lock.
      if (interrupted() || (stop && stop()))
        return abandon(number, asked, Error(Code::timeout, "the wait for the daemon's answer was interrupted"));
      next_look = steady_clock::now() + look_up_interval;
    }
    lock.lock();
    if (replies_.at(number)) {
      auto packet = std::move(*replies_.extract(number).mapped());
      lock.unlock();
      if (!packet.lost_fds) return checked(std::move(packet));
      give_back(asked, packet);
      return ipc::descriptors_lost();
    }
    if (!alive()) {
      lock.unlock();
      return abandon(number, wire::Body_NONE, end_error());
    }
    const auto now = steady_clock::now();
    if (now >= until) {
      lock.unlock();
      return abandon(number, asked, no_answer(welcome_.socket, now - begin));
    }
    const auto slice = std::min(look_up_interval, std::chrono::ceil<milliseconds>(until - now));
    if (receiving_) {
      replies_changed_.wait_for(lock, slice);
      lock.unlock();
      continue;
    }
    receiving_ = true;
    lock.unlock();
    receive_replies(slice);
    lock.lock();
    receiving_ = false;
    lock.unlock();
    replies_changed_.notify_all();
  }
}

void Connection::settle_abandoned(wire::Body asked, SteadyTime until) {
  const auto any = [&] {
    const std::lock_guard lock(reply_mutex_);
    return std::any_of(abandoned_.begin(), abandoned_.end(), [&](const auto& each) { return each.second == asked; });
  };
  while (any() && alive() && !interrupted() && steady_clock::now() < until) {
    if (receive_if_free()) continue;
    pollfd readable{socket_.get(), POLLIN, 0};
    ::poll(&readable, 1, static_cast<int>(look_up_interval.count()));
  }
}

Result<bool> Connection::try_send(std::span<const std::byte> frame) {
  const std::lock_guard lock(send_mutex_);
  while (!untold_.empty()) {
    auto sent = ipc::send_packet(socket_, untold_.front(), {});
    if (!sent || !*sent) return sent;
    untold_.pop_front();
    has_untold_ = !untold_.empty();
  }
  if (frame.empty()) return true;
  return ipc::send_packet(socket_, frame, {});
}

Result<void> Connection::send_frame(std::span<const std::byte> frame, SteadyTime until) {
  for (;;) {
    auto sent = try_send(frame);
    if (sent && *sent) return {};
    Error error =
        sent ? Error(Code::timeout, "the daemon does not read its socket", "look at: muster status") : sent.error();
    const bool goes_on = sent && alive() && !interrupted() && steady_clock::now() <= until;
    // The daemon reads no more of a client that doesn't read its replies. And one that ends says why.
    receive_if_free();
    if (!goes_on) return alive() ? error : end_error();
    pollfd writable{socket_.get(), POLLOUT, 0};
    ::poll(&writable, 1, static_cast<int>(look_up_interval.count()));
  }
}

void Connection::tell(const Build& build) {
  if (!alive()) return;
  std::uint64_t number = 0;
  {
    const std::lock_guard lock(reply_mutex_);
    number = ++last_request_;
  }
  auto frame = build(number);
  // What has no room now is told before the next request, or when somebody waits.
  if (auto sent = try_send(frame); !sent || *sent) return;
  const std::lock_guard lock(send_mutex_);
  untold_.push_back(std::move(frame));
  has_untold_ = true;
}

Error Connection::abandon(std::uint64_t request, wire::Body asked, Error error) {
  std::optional<ipc::Packet> late;
  {
    const std::lock_guard lock(reply_mutex_);
    if (auto waiting = replies_.extract(request); !waiting.empty()) late = std::move(waiting.mapped());
    if (!late && asked != wire::Body_NONE) abandoned_.emplace(request, static_cast<std::uint8_t>(asked));
  }
  if (late) give_back(asked, *late);
  return error;
}

void Connection::give_back(wire::Body asked, const ipc::Packet& late) {
  const auto* frame = wire::GetFrame(late.bytes.data());
  if (const auto* segment = frame->body_as_Segment(); segment && asked == wire::Body_Lease)
    tell_returned(*this, {segment->segment()});
  if (const auto* joined = frame->body_as_Joined())
    tell([&](std::uint64_t number) {
      return build_frame(number, wire::Body_Leave,
                         [&](auto& fbb) { return wire::CreateLeave(fbb, joined->seat()).Union(); });
    });
  if (const auto* object = frame->body_as_Object(); object && asked == wire::Body_Lookup) {
    hold_began();
    hold_ended({object->object()}, true);
  }
}

bool Connection::receive_replies(milliseconds timeout) {
  pollfd readable{socket_.get(), POLLIN, 0};
  if (::poll(&readable, 1, static_cast<int>(timeout.count())) <= 0) return false;
  for (;;) {
    auto received = ipc::receive_packet(socket_, incoming_);
    if (!received) {
      end(received.error());
      return true;
    }
    if (*received == ipc::Received::would_block) return true;
    if (*received == ipc::Received::closed) {
      end(Error(Code::daemon_unavailable, "the daemon at " + welcome_.socket + " closed the connection",
                "its log, " + daemon_log(welcome_.socket) + ", may say why; start it again: muster start"));
      return true;
    }
    take_packet(std::exchange(incoming_, {}));
  }
}

bool Connection::receive_if_free() {
  {
    const std::lock_guard lock(reply_mutex_);
    if (receiving_) return false;
    receiving_ = true;
  }
  const bool received = receive_replies(milliseconds(0));
  {
    const std::lock_guard lock(reply_mutex_);
    receiving_ = false;
  }
  replies_changed_.notify_all();
  return received;
}

void Connection::take_packet(ipc::Packet packet) {
  const auto* frame = wire::GetFrame(packet.bytes.data());
  if (const auto* goodbye = frame->body_as_Goodbye())
    return end(Error(static_cast<Code>(goodbye->code()), text(goodbye->reason()), text(goodbye->hint())));
  std::unique_lock lock(reply_mutex_);
  if (auto found = replies_.find(frame->request()); found != replies_.end()) {
    found->second = std::move(packet);
    return;
  }
  const auto abandoned = abandoned_.find(frame->request());
  if (abandoned == abandoned_.end()) return;
  const auto asked = static_cast<wire::Body>(abandoned->second);
  lock.unlock();
  give_back(asked, packet);
  // Only now: who waits for it asks for the same next.
  lock.lock();
  abandoned_.erase(frame->request());
}

void Connection::look_at_socket() {
  constexpr std::int64_t interval_ns = 10'000'000;
  const auto now = steady_clock::now().time_since_epoch().count();
  auto next = next_look_ns_.load(std::memory_order_relaxed);
  if (now < next) return;  // callers come by a million times a second
  if (!next_look_ns_.compare_exchange_strong(next, now + interval_ns)) return;
  static_cast<void>(receive_if_free());
  if (has_untold_) static_cast<void>(try_send({}));
}

}  // namespace muster::detail
