#include "requests.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

namespace muster::detail {

namespace wire = ipc::wire;

namespace {

constexpr auto greeting_timeout = std::chrono::seconds(10);

Result<ipc::Fd> connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return Error(Code::invalid, "socket path of " + std::to_string(path.size()) + " bytes: " + path,
                 "use a shorter one");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  ipc::Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket) return ipc::system_error(Code::failed, "can't make a socket", errno);
  while (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == EINTR) continue;
    const bool absent = errno == ENOENT || errno == ECONNREFUSED || errno == ECONNRESET;
    return ipc::system_error(absent ? Code::daemon_unavailable : Code::denied, "no daemon at " + path, errno,
                             absent ? "start one: muster start" : "look at the socket's permissions");
  }
  ::fcntl(socket.get(), F_SETFL, ::fcntl(socket.get(), F_GETFL) | O_NONBLOCK);
  return socket;
}

Result<ipc::Packet> receive_within(const ipc::Fd& socket, const std::string& path) {
  const auto until = std::chrono::steady_clock::now() + greeting_timeout;
  for (;;) {
    ipc::Packet packet;
    auto received = ipc::receive_packet(socket, packet);
    if (!received) return received.error();
    if (*received == ipc::Received::packet) return packet;
    if (*received == ipc::Received::closed)
      return Error(Code::daemon_unavailable, "the daemon at " + path + " is just ending", "try again");
    if (std::chrono::steady_clock::now() > until)
      return Error(Code::timeout, "the daemon at " + path + " does not answer",
                   "look at its log; muster doctor may help");
    pollfd readable{socket.get(), POLLIN, 0};
    constexpr int slice_ms = 100;
    ::poll(&readable, 1, slice_ms);
  }
}

}  // namespace

Result<Greeted> greet(const std::string& path, const std::string& name) {
  auto socket = connect_to(path);
  if (!socket) return socket.error();
  const auto hello = build_frame(1, wire::Body_Hello, [&](auto& fbb) {
    const auto own_name = fbb.CreateString(name.empty() ? std::string(program_invocation_short_name) : name);
    return wire::CreateHello(fbb, ipc::protocol_version, own_name, fbb.CreateString("c++")).Union();
  });
  if (auto sent = ipc::send_packet(*socket, hello, {}); !sent)
    return Error(Code::daemon_unavailable, "the daemon at " + path + " is just ending", "try again");
  auto packet = receive_within(*socket, path);
  if (!packet) return packet.error();
  const auto* frame = wire::GetFrame(packet->bytes.data());
  if (const auto* failure = frame->body_as_Failure())
    return Error(static_cast<Code>(failure->code()), failure->message()->str(), failure->hint()->str());
  if (const auto* goodbye = frame->body_as_Goodbye())
    return Error(static_cast<Code>(goodbye->code()), goodbye->reason()->str(), goodbye->hint()->str());
  const auto* body = frame->body_as_Welcome();
  if (!body || packet->fds.size() != 3) return Error(Code::invalid, "what listens at " + path + " is no musterd");
  Greeted greeted;
  greeted.welcome = {
      body->version()->str(), path, body->incarnation(), {body->client()}, body->memory_bytes(), body->segment_bytes(),
      body->in_flight_max()};
  greeted.socket = std::move(*socket);
  greeted.channel = std::move(packet->fds[0]);
  greeted.doorbell = std::move(packet->fds[1]);
  greeted.notify = std::move(packet->fds[2]);
  return greeted;
}

Result<LeasedSegment> map_lease(Connection& connection, ipc::Packet granted) {
  const auto* body = wire::GetFrame(granted.bytes.data())->body_as_Segment();
  if (!body || granted.fds.size() != 1) return Error(Code::failed, "the daemon's answer to Lease makes no sense");
  const ipc::SegmentId id{body->segment()};
  auto mapping = ipc::Mapping::map(granted.fds.front(), body->bytes(), ipc::Access::read_write);
  if (!mapping) return mapping.error();
  auto sealed = ask(connection, wire::Body_Mapped, std::chrono::seconds(30),
                    [&](auto& fbb) { return wire::CreateMapped(fbb, id.value).Union(); });
  if (!sealed) return sealed.error();
  return LeasedSegment{id, std::move(granted.fds.front()), std::move(*mapping)};
}

}  // namespace muster::detail
