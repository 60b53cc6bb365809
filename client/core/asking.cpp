// Asks the daemon on the socket, and waits for its replies. One thread at a time receives for all.
#include "connection.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/failpoint.hpp>
#include <muster/ipc/records.hpp>
#include <muster/ipc/text.hpp>

#include "base/bounded_time.hpp"
#include "base/call_deadline.hpp"
#include "base/interrupted.hpp"
#include "requests.hpp"
#include "start_daemon.hpp"

namespace muster::detail {

namespace wire = ipc::wire;
using flatbuffers::GetString;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

Error no_answer(const std::string& socket, steady_clock::duration waited) {
  return {Code::timeout, fmt::format("the daemon at {} did not answer within {}", socket, ipc::seconds_text(waited)),
          "is it stopped, or is the machine too busy? muster status"};
}

Result<ipc::Packet> checked(ipc::Packet packet) {
  const auto* failure = wire::GetFrame(packet.bytes.data())->body_as_Failure();
  if (!failure) return packet;
  std::vector<int> ranks;
  if (failure->ranks()) ranks.assign(failure->ranks()->begin(), failure->ranks()->end());
  return Error(static_cast<Code>(failure->code()), GetString(failure->message()), GetString(failure->hint()),
               std::move(ranks));
}

void hit_sent(wire::Body asked) {
  if (asked == wire::Body_Join) MUSTER_FAILPOINT(joining);
  if (asked == wire::Body_Lookup) MUSTER_FAILPOINT(lookup);
}

/// How many requests may be unanswered when this one is sent. The daemon ends the connection of a client that sends
/// more than it accepts. Requests that wait for memory leave room for requests that give memory back.
std::size_t unanswered_max(wire::Body asked) {
  const bool waits = asked == wire::Body_Lease || asked == wire::Body_LeaveInPlace;
  return waits ? ipc::requests_max / 2 : ipc::requests_max - 1;
}

}  // namespace

/// Waits until the request may be sent. Returns whether it had to wait.
Result<bool> Connection::begin_request(std::uint64_t request, wire::Body asked, SteadyTime until, const Stop& stop) {
  const std::size_t most = unanswered_max(asked);
  auto next_look = steady_clock::now() + look_up_interval;
  for (bool waited = false;; waited = true) {
    const auto seen = receiving_.seen();
    if (locked([&](Protocol& protocol) { return protocol.replies.begins(request, most); })) return waited;
    if (!alive()) return end_error();
    const std::string why = fmt::format("{} requests of this process wait for the daemon", most);
    const auto now = steady_clock::now();
    if (now > next_look) {
      if (interrupted() || (stop && stop())) return Error(Code::timeout, "the wait was interrupted while " + why);
      next_look = now + look_up_interval;
    }
    if (now >= until)
      return Error(Code::quota_exceeded, why + " already", "wait for some of them first, or free the memory they want");
    receive_or_wait(seen, std::min(look_up_interval, std::chrono::ceil<milliseconds>(until - now)));
  }
}

/// Receives what arrives next, or waits while another thread receives.
void Connection::receive_or_wait(std::uint64_t seen, milliseconds at_most) {
  if (!receiving_.take_or_wait(seen, steady_clock::now() + at_most)) return;
  const Turn::Having turn(receiving_);
  receive(at_most);
}

Result<ipc::Packet> Connection::request(const Build& build, std::chrono::nanoseconds timeout, const Stop& stop) {
  if (!alive()) return end_error();
  const auto begin = steady_clock::now();
  const auto until = CallDeadline::bound(begin + bounded(timeout));
  const auto number = locked([](Protocol& protocol) { return protocol.replies.asked(); });
  auto frame = build(number);
  const auto asked = wire::GetFrame(frame.data())->body_type();
  const auto waited = begin_request(number, asked, until, stop);
  if (!waited) return abandon(number, wire::Body_NONE, waited.error());
  if (*waited) frame = build(number);  // the frame says how much time is left
  if (auto sent = send_frame(frame, until); !sent) return abandon(number, wire::Body_NONE, sent.error());
  hit_sent(asked);
  for (auto next_look = steady_clock::now() + look_up_interval;;) {
    if (steady_clock::now() > next_look) {
      // Under a lock nobody may be called back; no lock is held here.
      if (interrupted() || (stop && stop()))
        return abandon(number, asked, Error(Code::timeout, "the wait for the daemon's answer was interrupted"));
      next_look = steady_clock::now() + look_up_interval;
    }
    const auto seen = receiving_.seen();
    if (auto packet = locked([&](Protocol& protocol) { return protocol.replies.taken(number); })) {
      if (!packet->lost_fds) return checked(std::move(*packet));
      give_back(asked, *packet);
      return ipc::descriptors_lost();
    }
    if (!alive()) return abandon(number, wire::Body_NONE, end_error());
    const auto now = steady_clock::now();
    if (now >= until) return abandon(number, asked, no_answer(welcome_.socket, now - begin));
    receive_or_wait(seen, std::min(look_up_interval, std::chrono::ceil<milliseconds>(until - now)));
  }
}

void Connection::settle_abandoned(wire::Body asked, SteadyTime until) {
  const auto any = [&] {
    return locked([&](Protocol& protocol) { return protocol.replies.may_still_be_granted(asked); });
  };
  while (any() && alive() && !interrupted() && steady_clock::now() < until)
    if (!receive_if_free()) exchange_.await_packet();
}

Result<void> Connection::send_frame(std::span<const std::byte> frame, SteadyTime until) {
  for (;;) {
    auto sent = exchange_.try_send(frame);
    if (sent && *sent) return {};
    Error error =
        sent ? Error(Code::timeout, "the daemon does not read its socket", "look at: muster status") : sent.error();
    const bool goes_on = sent && alive() && !interrupted() && steady_clock::now() <= until;
    // The daemon reads no more from a client that doesn't read its replies. And a daemon that ends says why.
    receive_if_free();
    if (!goes_on) return alive() ? error : end_error();
    exchange_.await_room();
  }
}

void Connection::tell(const Build& build) {
  if (!alive()) return;
  const auto number = locked([](Protocol& protocol) { return protocol.replies.told(); });
  // If the socket is full, the frame goes before the next request, or when somebody waits.
  exchange_.tell(build(number));
}

Error Connection::abandon(std::uint64_t request, wire::Body asked, Error error) {
  const auto late = locked([&](Protocol& protocol) { return protocol.replies.given_up(request, asked); });
  if (late) give_back(asked, *late);
  return error;
}

void Connection::give_back(wire::Body asked, const ipc::Packet& late) {
  const auto* frame = wire::GetFrame(late.bytes.data());
  if (const auto* segment = frame->body_as_Segment();
      segment && (asked == wire::Body_Lease || asked == wire::Body_LeaveInPlace))
    tell_returned(*this, {segment->segment()});
  if (const auto* joined = frame->body_as_Joined()) tell_left(*this, {joined->seat()});
  if (const auto* object = frame->body_as_Object(); object && asked == wire::Body_Lookup) {
    hold_began();
    hold_ended({object->object()}, true);
  }
}

bool Connection::receive(milliseconds timeout) {
  const auto received = exchange_.receive(timeout, [this](ipc::Packet packet) { take_packet(std::move(packet)); });
  if (!received) end(received.error());
  if (received && *received == Exchange::Received::closed)
    end(Error(Code::daemon_unavailable, fmt::format("the daemon at {} closed the connection", welcome_.socket),
              fmt::format("its log, {}, may say why; start it again: muster start", daemon_log(welcome_.socket))));
  return !received || *received != Exchange::Received::nothing;
}

bool Connection::receive_if_free() {
  if (!receiving_.try_take()) return false;
  const Turn::Having turn(receiving_);
  return receive(milliseconds(0));
}

void Connection::take_packet(ipc::Packet packet) {
  const auto* frame = wire::GetFrame(packet.bytes.data());
  if (const auto* goodbye = frame->body_as_Goodbye())
    return end(Error(static_cast<Code>(goodbye->code()), GetString(goodbye->reason()), GetString(goodbye->hint())));
  const auto request = frame->request();
  const auto asked = locked([&](Protocol& protocol) { return protocol.replies.arrived(request, packet); });
  if (!asked) return;
  give_back(static_cast<wire::Body>(*asked), packet);
  // Only now: a thread that waits for this may ask for the same next.
  locked([&](Protocol& protocol) { protocol.replies.given_back(request); });
}

void Connection::look_at_socket() {
  constexpr std::int64_t interval_ns = 10'000'000;
  const auto now = steady_clock::now().time_since_epoch().count();
  auto next = next_look_ns_.load(std::memory_order_relaxed);
  if (now < next) return;  // callers call this a million times a second
  if (!next_look_ns_.compare_exchange_strong(next, now + interval_ns)) return;
  static_cast<void>(receive_if_free());
  exchange_.send_untold();
}

}  // namespace muster::detail
