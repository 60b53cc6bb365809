// How a lease is granted whose memory is made elsewhere, and what happens if that takes too long.
#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/time_limits.hpp>

#include "session/frame_builder.hpp"
#include "session/requests.hpp"
#include "session/turn.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

namespace {

/// So long a device may take to make memory, also for a client that would not wait for memory of others. Its worker may
/// have to be started first. Clients wait for ten seconds more than they ask for.
constexpr Duration making_least = std::chrono::seconds(5);

/// The effort of refusing a lease (see effort_of_turn): its memory is given back.
constexpr std::size_t effort_of_refusal = 8;

}  // namespace

void Requests::grant_made(ClientId id, std::uint64_t request, Segment& segment) {
  if (segment.is_in_place()) SegmentTable::opened(segment);
  grant(id, request, segment);
}

void Requests::refuse_grant(ClientId id, std::uint64_t request, SegmentId granted, const Error& why) {
  static_cast<void>(parts_.segments.hand_over(id, granted));  // it ends with the last who has it
  parts_.teller.reply_error(id, request, why);
}

/// A handle is no proof that its sender has the memory, and workers have the daemon's rights: so only processes of its
/// own user are believed. What is behind the handle is for the worker to find out.
void Requests::leave_in_place(Client& client, std::uint64_t request, const ipc::wire::LeaveInPlace& asked,
                              TimePoint now) {
  const ClientId id = client.id;
  const auto refuse = [&](const Error& why) { parts_.teller.reply_error(id, request, why); };
  const auto device =
      asked.device() ? muster::Device::of(asked.device()->kind(), asked.device()->index()) : std::nullopt;
  if (!device || !asked.memory())
    return refuse(Error(Code::invalid, "LeaveInPlace names an unknown device, or no memory"));
  if (client.credentials.user != parts_.settings.user)
    return refuse(Error(Code::denied,
                        fmt::format("user {} asked to leave memory in place, and the daemon is user {}'s",
                                    client.credentials.user, parts_.settings.user),
                        "copy it: put() without in_place"));
  auto left =
      parts_.segments.leave_in_place(client.payer(), *device, ipc::in_place_as<ipc::InPlaceMemory>(*asked.memory()));
  if (!left) return refuse(left.error());
  const auto timeout = std::min<Duration>(std::chrono::milliseconds(asked.timeout_ms()), ipc::timeout_max);
  try {
    grant_when_made(id, request, *left, now + timeout);
  } catch (const std::exception&) {
    parts_.clients.doom(id);  // the client has the segment, and would never hear of it
    throw;
  }
}

/// A device may take a while to make memory, or to open it. If it can't, the client has no segment.
void Requests::grant_when_made(ClientId id, std::uint64_t request, const SegmentPtr& segment, TimePoint deadline) {
  const Client* client = parts_.clients.find(id);
  if (!client) return;
  auto charge = parts_.ledger.charge(client->payer(), Resource::heap, waiting_seal_bytes);
  if (!charge) return refuse_grant(id, request, segment->id(), charge.error());
  auto coming = std::make_shared<Coming>();
  coming->charge = std::move(*charge);
  coming->client = id;
  coming->request = request;
  coming->segment = segment;
  coming->deadline = std::max(deadline, std::min(parts_.now, deadline) + making_least);
  const auto made = segment->memory()->when_made([this, coming](const Result<void>& made_now) {
    auto known = coming->segment.lock();
    if (!known) return;  // the client is gone, or was told that it took too long
    parts_.event(coming->client, [&] {
      if (made_now) return grant_made(coming->client, coming->request, *known);
      const SegmentId granted = known->id();
      known.reset();  // it is to end within the event, so that those who wait for memory are tried
      refuse_grant(coming->client, coming->request, granted, made_now.error());
    });
  });
  if (!made) return refuse_grant(id, request, segment->id(), made.error());
  if (*made) return grant_made(id, request, *segment);
  waiting_.push_back(*coming);
  coming_.insert(*coming);
}

/// The memory ends with the lease, so it is given back as soon as it is made, and nobody pays for it meanwhile.
void Requests::expire(TimePoint now) {
  for (std::size_t left = effort_of_turn; left > 0 && !coming_.empty() && coming_.begin()->deadline <= now;
       left -= std::min(left, effort_of_refusal)) {
    Coming& late = *coming_.begin();
    late.DueHook::unlink();
    auto segment = late.segment.lock();
    if (!segment) continue;
    const ClientId client = late.client;
    const auto refuse = [this, client, request = late.request, id = segment->id(), device = segment->device(),
                         what = segment->is_in_place() ? "open" : "make", bytes = segment->bytes()] {
      refuse_grant(client, request, id,
                   Error(Code::out_of_memory,
                         fmt::format("{} did not {} {} of memory in time", name(device), what, ipc::bytes_text(bytes)),
                         "its worker is busy or hangs: see `nvidia-smi`, and try again with a longer timeout"));
    };
    segment.reset();
    parts_.event(client, refuse);
  }
}

std::optional<TimePoint> Requests::next_deadline() const {
  if (coming_.empty()) return std::nullopt;
  return coming_.begin()->deadline;
}

}  // namespace musterd
