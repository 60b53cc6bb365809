// Frames of the client's requests, so that callers need to know only the body that they send.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/wire_generated.h>

#include "connection.hpp"

namespace muster::detail {

template <class MakeBody>
std::vector<std::byte> build_frame(std::uint64_t number, ipc::wire::Body type, const MakeBody& make_body) {
  flatbuffers::FlatBufferBuilder fbb;
  const flatbuffers::Offset<void> body = make_body(fbb);
  ipc::wire::FinishFrameBuffer(fbb, ipc::wire::CreateFrame(fbb, number, type, body));
  const auto* begin = reinterpret_cast<const std::byte*>(fbb.GetBufferPointer());
  return {begin, begin + fbb.GetSize()};
}

/// Asks the daemon. The packet has the reply to this request.
template <class MakeBody>
Result<ipc::Packet> ask(Connection& connection, ipc::wire::Body type, std::chrono::nanoseconds timeout,
                        const MakeBody& make_body) {
  return connection.request([&](std::uint64_t number) { return build_frame(number, type, make_body); }, timeout);
}

/// A timeout in the form that frames have, at most a day.
[[nodiscard]] std::uint32_t milliseconds_of(std::chrono::nanoseconds timeout);

/// Gives a leased segment back without waiting for the answer.
void tell_returned(Connection& connection, ipc::SegmentId segment);

/// Leaves a group without waiting for the answer.
void tell_left(Connection& connection, ipc::SeatId seat);

/// Ends a token without waiting for the answer.
void tell_token_ended(Connection& connection, const std::string& name);

/// A connected socket, and the Welcome that its daemon sent.
struct Greeted {
  Welcome welcome;
  ipc::Fd socket;
  ipc::Fd channel;
  ipc::Fd doorbell;
  ipc::Fd notify;
};
/// DaemonUnavailable if nobody listens there, or if the daemon is just ending. Timeout if a daemon listens but does not
/// answer.
[[nodiscard]] Result<Greeted> greet(const std::string& path, const std::string& name, SteadyTime until);

/// Tells the daemon that its rings are mapped, and returns once they are sealed and in use.
[[nodiscard]] Result<void> open_rings(const ipc::Fd& socket, const std::string& path);

/// The arena of a device. Invalid if the daemon has no memory there.
[[nodiscard]] Result<Arena*> arena_on(Connection& connection, Device device);

/// Maps a granted segment for writing, tells the daemon so, and returns once it is sealed.
[[nodiscard]] Result<LeasedSegment> map_lease(Connection& connection, ipc::Packet granted, Device device);

}  // namespace muster::detail
