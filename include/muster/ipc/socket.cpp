// Packets over a SEQPACKET socket. Descriptors from recvmsg get an owner before anything is checked, so that no
// malformed packet leaks a descriptor.
#include <muster/ipc/socket.hpp>

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/wire_generated.h>

namespace muster::ipc {

namespace {

/// Room for a packet's descriptors, aligned as the kernel wants it.
struct alignas(cmsghdr) Control {
  std::array<std::byte, CMSG_SPACE(fds_max * sizeof(int))> bytes;
};

Result<bool> send_bytes(const Fd& socket, std::span<const std::byte> frame, std::span<const int> fds) {
  iovec part{const_cast<std::byte*>(frame.data()), frame.size()};
  Control control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.bytes.data();
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  while (sendmsg(socket.get(), &message, MSG_NOSIGNAL) < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return false;
    if (errno == EINTR) continue;
    // The other end is still there, and may get the packet later.
    const bool no_room = errno == ENOBUFS || errno == ENOMEM || errno == ETOOMANYREFS;
    return system_error(no_room ? Code::out_of_memory : Code::daemon_unavailable, "can't send to the other end", errno);
  }
  return true;
}

std::vector<Fd> take_fds(msghdr& message) {
  std::vector<Fd> fds;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

/// Whether descriptors came with the next packet. This only peeks; the packet stays in the socket with them.
bool brings_descriptors(const Fd& socket) {
  std::byte byte{};
  iovec part{&byte, sizeof byte};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  while (recvmsg(socket.get(), &message, MSG_PEEK | MSG_DONTWAIT) < 0)
    if (errno != EINTR) return false;
  return (message.msg_flags & MSG_CTRUNC) != 0;
}

}  // namespace

Result<Received> receive_bytes(const Fd& socket, Packet& packet) {
  std::array<std::byte, inline_bytes_max> buffer;  // NOLINT: filled by the kernel; zeroing it costs more than the call
  Control control;                                 // NOLINT: the same
  iovec part{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes.data();
  message.msg_controllen = control.bytes.size();
  ssize_t received = 0;
  bool was_reset = false;
  while ((received = recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC)) < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return Received::would_block;
    // The other end closed before it had read everything. The kernel reports that once, before what that end still
    // sent.
    if (errno == ECONNRESET && !std::exchange(was_reset, true)) continue;
    if (errno == ECONNRESET) return Received::closed;
    if (errno != EINTR) return system_error(Code::daemon_unavailable, "can't receive from the other end", errno);
  }
  packet.fds = take_fds(message);
  const bool truncated = (message.msg_flags & MSG_CTRUNC) != 0;
  packet.lost_fds = truncated && packet.fds.size() < fds_max;
  if (packet.lost_fds) packet.fds.clear();
  else if (truncated || packet.fds.size() > fds_max)
    return Error(Code::invalid, fmt::format("a packet has too many descriptors: more than {}", fds_max));
  if ((message.msg_flags & MSG_TRUNC) != 0)
    return Error(Code::invalid, fmt::format("a packet is too long: more than {} bytes", inline_bytes_max));
  if (received == 0) return Received::closed;
  packet.bytes.assign(buffer.begin(), buffer.begin() + received);
  return Received::packet;
}

namespace {

wire::Body body_type(std::span<const std::byte> verified_frame) {
  return wire::GetFrame(verified_frame.data())->body_type();
}

/// Adds a part to those that have come. True when the frame is whole; it is in the packet then.
Result<bool> take_part(Packet& packet, const wire::Part& part) {
  const auto wrong = [](const std::string& what) { return Error(Code::invalid, "a frame in parts: " + what); };
  if (!packet.fds.empty()) return wrong("descriptors came with it");
  const std::size_t bytes = part.bytes() == nullptr ? 0 : part.bytes()->size();
  if (bytes == 0 || bytes > frame_bytes_max - packet.begun.size())
    return wrong(fmt::format("a part has {} bytes after {}", bytes, packet.begun.size()));
  const auto* begin = reinterpret_cast<const std::byte*>(part.bytes()->data());
  packet.begun.insert(packet.begun.end(), begin, begin + bytes);
  if (part.more()) return false;
  packet.bytes = std::exchange(packet.begun, {});
  if (!verify_frame(packet.bytes) || body_type(packet.bytes) == wire::Body_Part)
    return wrong(fmt::format("the whole is not a frame, {} bytes", packet.bytes.size()));
  return true;
}

Result<Received> receive_checked(const Fd& socket, Packet& packet, Sender sender) {
  if (sender == Sender::client && brings_descriptors(socket))
    return Error(Code::invalid, "descriptors came with a packet to the daemon, which takes none");
  for (;;) {
    auto received = receive_bytes(socket, packet);
    if (!received || *received != Received::packet) return received;
    if (!verify_frame(packet.bytes, sender))
      return Error(Code::invalid,
                   fmt::format("a packet is not a frame of this protocol: {} bytes", packet.bytes.size()));
    if (body_type(packet.bytes) != wire::Body_Part) break;
    const auto* part = wire::GetFrame(packet.bytes.data())->body_as_Part();
    if (part == nullptr) return Error(Code::invalid, "a part of a frame has no body");
    auto whole = take_part(packet, *part);
    if (!whole) return whole.error();
    if (*whole) break;
  }
  packet.begun.clear();  // the end of a connection may come before the rest of a frame
  return Received::packet;
}

/// The type of a frame's body before the body itself has been verified; NONE if it can't be read.
wire::Body peek_body_type(flatbuffers::Verifier& verifier, const std::uint8_t* begin) {
  const auto root = verifier.VerifyOffset(0);
  if (root == 0 || !verifier.VerifyTableStart(begin + root)) return wire::Body_NONE;
  verifier.EndTable();
  const auto* table = flatbuffers::GetRoot<flatbuffers::Table>(begin);
  const auto field = table->GetOptionalFieldOffset(wire::Frame::VT_BODY_TYPE);
  if (field == 0 || !verifier.VerifyFieldStruct(begin + root, field, 1, 1)) return wire::Body_NONE;
  return static_cast<wire::Body>(flatbuffers::ReadScalar<std::uint8_t>(begin + root + field));
}

/// Whether a client may send this body. Such bodies are one table of numbers, texts and vectors of numbers, and are
/// verified in constant time.
bool is_clients(wire::Body type) { return type <= wire::Body_Stop; }

}  // namespace

Error descriptors_lost() {
  return system_error(Code::quota_exceeded, "can't open the descriptors that came with a packet", EMFILE);
}

std::vector<std::vector<std::byte>> parts_of(std::span<const std::byte> frame) {
  std::vector<std::vector<std::byte>> parts;
  while (!frame.empty()) {
    const auto bytes = frame.first(std::min(frame.size(), part_bytes_max));
    frame = frame.subspan(bytes.size());
    constexpr std::size_t frame_around = 128;
    flatbuffers::FlatBufferBuilder builder(bytes.size() + frame_around);
    const auto content = builder.CreateVector(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    const auto part = wire::CreatePart(builder, content, !frame.empty());
    wire::FinishFrameBuffer(builder, wire::CreateFrame(builder, 0, wire::Body_Part, part.Union()));
    const auto made = std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
    parts.emplace_back(made.begin(), made.end());
  }
  return parts;
}

Result<bool> send_packet(const Fd& socket, std::span<const std::byte> frame, std::span<const int> fds) {
  if (frame.empty() || frame.size() > inline_bytes_max)
    return Error(Code::invalid,
                 fmt::format("can't send a packet of {} bytes: at most {}", frame.size(), inline_bytes_max));
  if (fds.size() > fds_max)
    return Error(Code::invalid, fmt::format("can't send {} descriptors: at most {}", fds.size(), fds_max));
  return send_bytes(socket, frame, fds);
}

Result<Received> receive_packet(const Fd& socket, Packet& packet, Sender sender) {
  auto received = receive_checked(socket, packet, sender);
  if (received && *received == Received::packet) return received;
  auto begun = received ? std::move(packet.begun) : std::vector<std::byte>();
  packet = {};
  packet.begun = std::move(begun);
  return received;
}

bool verify_frame(std::span<const std::byte> frame, Sender sender) {
  if (frame.size() > frame_bytes_max || frame.size() < 2 * sizeof(flatbuffers::uoffset_t)) return false;
  const auto* begin = reinterpret_cast<const std::uint8_t*>(frame.data());
  flatbuffers::Verifier peek(begin, frame.size(), 2, 2);
  const auto type = peek_body_type(peek, begin);
  if (sender == Sender::client && !is_clients(type)) return false;
  // The deepest nesting is Frame, Groups, GroupInfo, SeatInfo. A table takes at least 8 bytes, including its place in a
  // vector. A frame that claims more tables refers to the same ones over and over.
  const auto tables_max = is_clients(type) || type == wire::Body_Part ? 2 : 8 + frame.size() / 8;
  flatbuffers::Verifier verifier(begin, frame.size(), 4, static_cast<flatbuffers::uoffset_t>(tables_max));
  return wire::VerifyFrameBuffer(verifier);
}

}  // namespace muster::ipc
