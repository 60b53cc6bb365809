// The frames that more than one file sends, and the greeting.
#include "requests.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <thread>

#include <fmt/format.h>

#include <muster/ipc/device_text.hpp>
#include <muster/ipc/failpoint.hpp>
#include <muster/ipc/place.hpp>

#include "base/bounded_time.hpp"
#include "base/interrupted.hpp"

namespace muster::detail {

namespace wire = ipc::wire;
using flatbuffers::GetString;

namespace {

constexpr auto mapped_timeout = std::chrono::seconds(30);

Error ending(const std::string& path) {
  return {Code::daemon_unavailable, fmt::format("the daemon at {} is just ending", path), "try again"};
}

Error silent(const std::string& path) {
  return {Code::timeout, fmt::format("the daemon at {} does not answer", path),
          "is it stopped (kill -CONT lets it go on), or is the machine too busy? muster doctor may help"};
}

Error refused(const std::string& path, int error_number) {
  const bool absent =
      error_number == ENOENT || error_number == ECONNREFUSED || error_number == ECONNRESET || error_number == ENOTDIR;
  if (absent) {
    const std::string where = path == ipc::socket_path("") ? std::string() : " --socket " + path;
    return {Code::daemon_unavailable, "no daemon listens at " + path, "start one: muster start" + where};
  }
  return ipc::system_error(Code::denied, "can't connect to " + path, error_number, "look at the socket's permissions");
}

Result<ipc::Fd> connect_to(const std::string& path, SteadyTime until) {
  const auto address = ipc::unix_address(path);
  if (!address) return address.error();
  ipc::Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return ipc::system_error(Code::failed, "can't make a socket", errno);
  while (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) {
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return refused(path, errno);
    // The daemon's queue of new connections is full. If the daemon is stopped, it stays full.
    if (std::chrono::steady_clock::now() > until || interrupted()) return silent(path);
    constexpr auto nap = std::chrono::milliseconds(5);
    std::this_thread::sleep_for(nap);
  }
  if (auto own = ipc::check_listener(socket, path); !own) return own.error();
  return socket;
}

Result<ipc::Packet> receive_within(const ipc::Fd& socket, const std::string& path, SteadyTime until) {
  for (;;) {
    ipc::Packet packet;
    auto received = ipc::receive_packet(socket, packet);
    if (!received && received.error().code() == Code::invalid)
      return ipc::not_a_musterd(path, received.error().message());
    if (!received) return received.error();
    if (*received == ipc::Received::packet) return packet;
    if (*received == ipc::Received::closed) return ending(path);
    if (std::chrono::steady_clock::now() > until || interrupted()) return silent(path);
    pollfd readable{socket.get(), POLLIN, 0};
    ::poll(&readable, 1, static_cast<int>(look_up_interval.count()));
  }
}

/// Returns why the daemon refuses this client. Nothing if the frame is another answer.
std::optional<Error> refusal(const wire::Frame& frame) {
  if (const auto* failure = frame.body_as_Failure())
    return Error(static_cast<Code>(failure->code()), GetString(failure->message()), GetString(failure->hint()));
  if (const auto* goodbye = frame.body_as_Goodbye())
    return Error(static_cast<Code>(goodbye->code()), GetString(goodbye->reason()), GetString(goodbye->hint()));
  return std::nullopt;
}

std::vector<std::byte> hello(const std::string& name, SteadyTime until) {
  return build_frame(1, wire::Body_Hello, [&](auto& fbb) {
    const auto own_name = fbb.CreateString(name.empty() ? std::string(program_invocation_short_name) : name);
    const auto timeout_ms = milliseconds_of(until - std::chrono::steady_clock::now());
    return wire::CreateHello(fbb, ipc::protocol_version, own_name, timeout_ms).Union();
  });
}

}  // namespace

Result<Greeted> greet(const std::string& path, const std::string& name, SteadyTime until) {
  auto socket = connect_to(path, until);
  if (!socket) return socket.error();
  // A daemon that refuses may have closed its end already. What it said can still be read.
  static_cast<void>(ipc::send_packet(*socket, hello(name, until), {}));
  // A full daemon answers at `until`, so waits a moment longer for its answer.
  auto packet = receive_within(*socket, path, until + std::chrono::seconds(1));
  if (!packet) return packet.error();
  const auto* frame = wire::GetFrame(packet->bytes.data());
  if (auto refused = refusal(*frame)) return *refused;
  if (packet->lost_fds) return ipc::descriptors_lost();
  const auto* body = frame->body_as_Welcome();
  if (!body || packet->fds.size() != 3) return ipc::not_a_musterd(path, "it does not greet");
  if (body->protocol() != ipc::protocol_version)
    return Error(Code::invalid,
                 fmt::format("the daemon at {} (version {}) speaks protocol {}, this process protocol {}", path,
                             GetString(body->version()), body->protocol(), ipc::protocol_version),
                 "install the same version of Muster on both sides");
  Greeted greeted;
  greeted.welcome = {GetString(body->version()),
                     path,
                     body->incarnation(),
                     {body->client()},
                     body->segments_about(),
                     body->in_flight_max(),
                     std::chrono::milliseconds(body->pickle_lease_ms()),
                     {}};
  if (const auto* devices = body->devices())
    for (const auto* each : *devices)
      if (const auto device = Device::of(each->device().kind(), each->device().index())) {
        Welcome::Memory memory{*device, each->bytes(), {}};
        std::ranges::copy(*each->gpu(), memory.gpu.begin());
        greeted.welcome.devices.push_back(memory);
      }
  if (greeted.welcome.devices.empty() || greeted.welcome.devices.front().device != Device::cpu())
    return Error(Code::invalid, fmt::format("the daemon at {} names no memory of the host", path));
  greeted.socket = std::move(*socket);
  greeted.channel = std::move(packet->fds[0]);
  greeted.doorbell = std::move(packet->fds[1]);
  greeted.notify = std::move(packet->fds[2]);
  return greeted;
}

Result<void> open_rings(const ipc::Fd& socket, const std::string& path) {
  // Segment 0 stands for the rings.
  const auto frame = build_frame(2, wire::Body_Mapped, [](auto& fbb) { return wire::CreateMapped(fbb, 0).Union(); });
  static_cast<void>(ipc::send_packet(socket, frame, {}));  // if the daemon is gone, its answer shows that
  auto packet = receive_within(socket, path, std::chrono::steady_clock::now() + mapped_timeout);
  if (!packet) return packet.error();
  const auto* answer = wire::GetFrame(packet->bytes.data());
  if (answer->body_as_Ok()) return {};
  if (auto refused = refusal(*answer)) return *refused;
  return ipc::not_a_musterd(path, "its answer to Mapped makes no sense");
}

std::uint32_t milliseconds_of(std::chrono::nanoseconds timeout) {
  return static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::milliseconds>(bounded(timeout)).count());
}

void tell_returned(Connection& connection, ipc::SegmentId segment) {
  connection.tell([&](std::uint64_t number) {
    return build_frame(number, wire::Body_Return,
                       [&](auto& fbb) { return wire::CreateReturn(fbb, segment.value).Union(); });
  });
}

void tell_left(Connection& connection, ipc::SeatId seat) {
  connection.tell([&](std::uint64_t number) {
    return build_frame(number, wire::Body_Leave, [&](auto& fbb) { return wire::CreateLeave(fbb, seat.value).Union(); });
  });
}

void tell_token_ended(Connection& connection, const std::string& name) {
  connection.tell([&](std::uint64_t number) {
    return build_frame(number, wire::Body_EndToken, [&](auto& fbb) {
      const auto text = fbb.CreateString(name);
      return wire::CreateEndToken(fbb, text).Union();
    });
  });
}

namespace {

Result<SegmentMapping> map_writable(Connection& connection, const ipc::Fd& fd, std::uint64_t bytes, Device device) {
  auto mapping = SegmentMapping::map(fd, bytes, ipc::Access::read_write, device);
  if (!mapping || device != Device::pinned()) return mapping;
  auto pinned = pin_for_writing(mapping->data(), bytes, connection.pins());
  if (!pinned) return pinned.error();
  mapping->set_pin(std::move(*pinned));
  return mapping;
}

}  // namespace

Result<LeasedSegment> map_lease(Connection& connection, ipc::Packet granted, Device device) {
  const auto* body = wire::GetFrame(granted.bytes.data())->body_as_Segment();
  if (!body || granted.fds.size() != 1) return Error(Code::failed, "the daemon's answer to Lease makes no sense");
  MUSTER_FAILPOINT(leased);
  const ipc::SegmentId id{body->segment()};
  auto mapping = map_writable(connection, granted.fds.front(), body->bytes(), device);
  if (!mapping) {
    tell_returned(connection, id);
    return mapping.error();
  }
  auto sealed = ask(connection, wire::Body_Mapped, mapped_timeout,
                    [&](auto& fbb) { return wire::CreateMapped(fbb, id.value).Union(); });
  if (!sealed) {
    mapping->unmap();
    tell_returned(connection, id);
    return sealed.error();
  }
  MUSTER_FAILPOINT(mapped);
  ipc::Fd fd;
  if (mapping->is_host()) fd = std::move(granted.fds.front());
  return LeasedSegment{id, std::move(fd), std::move(*mapping)};
}

Result<Arena*> arena_on(Connection& connection, Device device) {
  if (auto* const arena = connection.arenas().on(device)) return arena;
  std::vector<Device> there;
  for (const auto& memory : connection.welcome().devices) there.push_back(memory.device);
  return ipc::no_such_device(device, there);
}

}  // namespace muster::detail
