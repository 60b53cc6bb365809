// Packets over real socket pairs. Frames and descriptors arrive together or not at all. Whatever the other end sends,
// no descriptor leaks, nothing blocks, and nothing costs more than its bytes.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <muster/ipc/socket.hpp>
#include <muster/ipc/wire_generated.h>

#include "random.hpp"

namespace muster::ipc {
namespace {

using test::Random;
using Bytes = std::vector<std::byte>;

struct Sockets {
  Fd a, b;
};

Sockets socket_pair() {
  int fds[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
  return {Fd(fds[0]), Fd(fds[1])};
}

template <class Create>
Bytes frame(wire::Body type, Create create, std::uint64_t request = 1) {
  flatbuffers::FlatBufferBuilder builder;
  const flatbuffers::Offset<void> body = create(builder).Union();
  wire::FinishFrameBuffer(builder, wire::CreateFrame(builder, request, type, body));
  const auto* begin = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
  return {begin, begin + builder.GetSize()};
}

Bytes hello(const std::string& name) {
  return frame(wire::Body_Hello, [&](auto& builder) { return wire::CreateHelloDirect(builder, 1, name.c_str()); });
}

Bytes submit(std::size_t body_bytes) {
  const std::vector<std::uint8_t> body(body_bytes, 7);
  return frame(wire::Body_Submit, [&](auto& builder) { return wire::CreateSubmitDirect(builder, 1, &body); });
}

Bytes part(std::span<const std::byte> bytes, bool more) {
  return frame(wire::Body_Part, [&](auto& builder) {
    const auto* begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
    return wire::CreatePart(builder, builder.CreateVector(begin, bytes.size()), more);
  });
}

/// Sends a frame of any size, whole or in parts.
void send_all(const Fd& socket, std::span<const std::byte> frame) {
  if (frame.size() <= inline_bytes_max) {
    REQUIRE(send_packet(socket, frame, {}).value());
  } else {
    for (const auto& each : parts_of(frame)) REQUIRE(send_packet(socket, each, {}).value());
  }
}

/// Sends what send_packet() would never send.
void send_raw(const Fd& socket, std::span<const std::byte> bytes, std::span<const int> fds = {}) {
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  std::vector<std::byte> control(CMSG_SPACE(fds.size_bytes()));
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  REQUIRE(sendmsg(socket.get(), &message, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
}

std::size_t open_descriptors() {
  DIR* folder = opendir("/proc/self/fd");
  REQUIRE(folder != nullptr);
  std::size_t count = 0;
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

/// Receives one packet that must be refused, and checks that none of its descriptors stays open.
Error refused(const Sockets& sockets) {
  Packet packet;
  auto received = receive_packet(sockets.b, packet);
  REQUIRE_FALSE(received);
  REQUIRE(packet.bytes.empty());
  REQUIRE(packet.fds.empty());
  return received.error();
}

TEST_CASE("a frame arrives with its descriptors, which close on exec") {
  const auto sockets = socket_pair();
  const auto memfd = create_memfd("test", 100).value();
  const std::vector<int> fds(fds_max, memfd.get());
  const auto sent = hello("training");
  REQUIRE(send_packet(sockets.a, sent, fds).value());
  Packet packet;
  REQUIRE(receive_packet(sockets.b, packet).value() == Received::packet);
  REQUIRE(packet.bytes == sent);
  REQUIRE(packet.fds.size() == fds_max);
  for (const auto& fd : packet.fds) REQUIRE((fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
  REQUIRE(wire::GetFrame(packet.bytes.data())->body_as_Hello()->name()->str() == "training");
  REQUIRE(receive_packet(sockets.b, packet).value() == Received::would_block);
}

TEST_CASE("frames of all sizes arrive as they were, in parts from the inline limit on") {
  const auto size = GENERATE(std::size_t{0}, inline_bytes_max - 200, inline_bytes_max, std::size_t{100'000});
  CAPTURE(size);
  const auto sockets = socket_pair();
  const auto sent = submit(size);
  send_all(sockets.a, sent);
  send_all(sockets.a, hello("next"));
  Packet packet;
  REQUIRE(receive_packet(sockets.b, packet).value() == Received::packet);
  REQUIRE(packet.bytes == sent);
  packet = {};
  REQUIRE(receive_packet(sockets.b, packet).value() == Received::packet);
  REQUIRE(packet.bytes == hello("next"));
}

TEST_CASE("sending a frame in parts continues where it stopped") {
  const auto sockets = socket_pair();
  const auto sent = submit(20 << 20);
  Packet packet;
  const auto parts = parts_of(sent);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    REQUIRE(parts[i].size() <= inline_bytes_max);
    REQUIRE(send_packet(sockets.a, parts[i], {}).value());
    const bool last = i + 1 == parts.size();
    REQUIRE(receive_packet(sockets.b, packet).value() == (last ? Received::packet : Received::would_block));
  }
  REQUIRE(packet.bytes == sent);
  REQUIRE(packet.begun.empty());
}

TEST_CASE("a frame whose rest never comes does not disturb the next one") {
  const auto sockets = socket_pair();
  REQUIRE(send_packet(sockets.a, parts_of(submit(100'000)).front(), {}).value());
  REQUIRE(send_packet(sockets.a, hello("the end"), {}).value());
  Packet packet;
  REQUIRE(receive_packet(sockets.b, packet).value() == Received::packet);
  REQUIRE(packet.bytes == hello("the end"));
  REQUIRE(packet.begun.empty());
}

TEST_CASE("packets keep their boundaries and their order") {
  const auto sockets = socket_pair();
  for (int i = 0; i < 5; ++i)
    REQUIRE(send_packet(sockets.a, hello(std::string(static_cast<std::size_t>(i), 'x')), {}).value());
  for (int i = 0; i < 5; ++i) {
    Packet packet;
    REQUIRE(receive_packet(sockets.b, packet).value() == Received::packet);
    REQUIRE(packet.bytes == hello(std::string(static_cast<std::size_t>(i), 'x')));
  }
}

TEST_CASE("a full socket says so, and takes frames again when its reader has read") {
  const auto sockets = socket_pair();
  const auto sent = submit(10'000);
  std::size_t count = 0;
  while (send_packet(sockets.a, sent, {}).value()) ++count;
  REQUIRE(count > 0);
  Packet packet;
  while (receive_packet(sockets.b, packet).value() == Received::packet) --count;
  REQUIRE(count == 0);
  REQUIRE(send_packet(sockets.a, sent, {}).value());
}

TEST_CASE("a closed end is told from an empty one, and writing to it raises no SIGPIPE") {
  auto sockets = socket_pair();
  REQUIRE(send_packet(sockets.a, hello("last words"), {}).value());
  sockets.a.reset();
  Packet packet;
  REQUIRE(receive_packet(sockets.b, packet).value() == Received::packet);
  REQUIRE(receive_packet(sockets.b, packet).value() == Received::closed);
  REQUIRE(send_packet(sockets.b, hello("nobody"), {}).error().code() == Code::daemon_unavailable);
}

TEST_CASE("a packet that can't be sent is refused before sending") {
  const auto sockets = socket_pair();
  REQUIRE(send_packet(sockets.a, Bytes(inline_bytes_max + 1), {}).error().code() == Code::invalid);
  REQUIRE(send_packet(sockets.a, {}, {}).error().code() == Code::invalid);
  const std::vector<int> fds(fds_max + 1, sockets.a.get());
  REQUIRE(send_packet(sockets.a, hello(""), fds).error().code() == Code::invalid);
  Packet packet;
  REQUIRE(receive_packet(sockets.b, packet).value() == Received::would_block);
}

// ---- hostile senders ----

TEST_CASE("garbage is Invalid, and its descriptors are closed") {
  const auto sockets = socket_pair();
  const auto eventfd = create_eventfd().value();
  const int fds[]{eventfd.get(), eventfd.get()};
  Random random(3);
  const auto before = open_descriptors();
  for (int i = 0; i < 200; ++i) {
    send_raw(sockets.a, random.bytes(random.between(1, 300)), fds);
    REQUIRE(refused(sockets).code() == Code::invalid);
  }
  REQUIRE(open_descriptors() == before);
}

TEST_CASE("a packet longer than the limit is Invalid, and its descriptors are closed") {
  const auto sockets = socket_pair();
  const auto eventfd = create_eventfd().value();
  const auto before = open_descriptors();
  auto frame = hello("x");
  frame.resize(inline_bytes_max + 1);
  send_raw(sockets.a, frame, std::vector{eventfd.get()});
  REQUIRE(refused(sockets).message().starts_with("a packet is too long"));
  REQUIRE(open_descriptors() == before);
}

TEST_CASE("more descriptors than may travel are Invalid, and all are closed") {
  const auto count = GENERATE(fds_max + 1, fds_max + 2, std::size_t{20}, std::size_t{253});
  CAPTURE(count);
  const auto sockets = socket_pair();
  const auto eventfd = create_eventfd().value();
  const auto before = open_descriptors();
  send_raw(sockets.a, hello("greedy"), std::vector<int>(count, eventfd.get()));
  REQUIRE(refused(sockets).message().starts_with("a packet has too many descriptors"));
  REQUIRE(open_descriptors() == before);
}

TEST_CASE("an empty packet counts as the end, its descriptors are closed") {
  const auto sockets = socket_pair();
  const auto eventfd = create_eventfd().value();
  const auto before = open_descriptors();
  send_raw(sockets.a, {}, std::vector{eventfd.get()});
  Packet packet;
  REQUIRE(receive_packet(sockets.b, packet).value() == Received::closed);
  REQUIRE(open_descriptors() == before);
}

TEST_CASE("descriptors lost to this process's own limit are told apart from a sender's mistake") {
  const auto sockets = socket_pair();
  const auto eventfd = create_eventfd().value();
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const auto before = open_descriptors();
  REQUIRE(send_packet(sockets.a, hello("x"), std::vector<int>(4, eventfd.get())).value());
  const rlimit low{static_cast<rlim_t>(eventfd.get() + 1), limit.rlim_max};
  REQUIRE(setrlimit(RLIMIT_NOFILE, &low) == 0);
  Packet packet;
  const auto received = receive_packet(sockets.b, packet);
  REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  REQUIRE(received.value() == Received::packet);
  REQUIRE(packet.lost_fds);
  REQUIRE(packet.fds.empty());
  REQUIRE(muster::ipc::descriptors_lost().code() == Code::quota_exceeded);
  REQUIRE(open_descriptors() == before);
}

TEST_CASE("parts that make no frame are Invalid, and their descriptors are closed") {
  const auto sockets = socket_pair();
  const auto eventfd = create_eventfd().value();
  const auto whole = submit(1000);
  const auto half = std::span(whole).first(500);
  const auto before = open_descriptors();
  SECTION("of nothing") { send_raw(sockets.a, part({}, true)); }
  SECTION("of something else") { send_raw(sockets.a, part(half, false)); }
  SECTION("of parts") { send_raw(sockets.a, part(part(whole, false), false)); }
  SECTION("without a body") {
    send_raw(sockets.a, frame(wire::Body_Part, [](auto& builder) { return wire::CreatePart(builder); }));
  }
  SECTION("with descriptors") { send_raw(sockets.a, part(whole, false), std::vector{eventfd.get()}); }
  const auto error = refused(sockets);
  REQUIRE(error.code() == Code::invalid);
  REQUIRE(error.message().starts_with("a frame in parts: "));
  REQUIRE(open_descriptors() == before);
}

TEST_CASE("parts without end are Invalid") {
  const auto sockets = socket_pair();
  const auto endless = part(Bytes(part_bytes_max), true);
  Packet packet;
  for (std::size_t bytes = part_bytes_max; bytes <= frame_bytes_max; bytes += part_bytes_max) {
    send_raw(sockets.a, endless);
    REQUIRE(receive_packet(sockets.b, packet).value() == Received::would_block);
  }
  send_raw(sockets.a, endless);
  REQUIRE(receive_packet(sockets.b, packet).error().code() == Code::invalid);
  REQUIRE(packet.begun.empty());
}

// ---- verification ----

TEST_CASE("a daemon accepts only bodies of clients") {
  const auto reply = frame(wire::Body_Ok, [](auto& builder) { return wire::CreateOk(builder); });
  REQUIRE(verify_frame(reply));
  REQUIRE_FALSE(verify_frame(reply, Sender::client));
  REQUIRE(verify_frame(hello("x"), Sender::client));
  const auto sockets = socket_pair();
  REQUIRE(send_packet(sockets.a, reply, {}).value());
  Packet packet;
  REQUIRE(receive_packet(sockets.b, packet, Sender::client).error().code() == Code::invalid);
}

TEST_CASE("a daemon never receives a client's descriptors, and a packet with descriptors ends the connection") {
  const auto sockets = socket_pair();
  const auto memfd = create_memfd("test", 100).value();
  const auto before = open_descriptors();
  for (int count : {1, 5, static_cast<int>(fds_max) + 1}) {
    send_raw(sockets.a, hello("x"), std::vector(static_cast<std::size_t>(count), memfd.get()));
    Packet packet;
    // Asking again gives the same answer: the packet stays in the queue with its descriptors.
    for (int i = 0; i < 2; ++i) {
      const auto refused = receive_packet(sockets.b, packet, Sender::client);
      REQUIRE(refused.error().code() == Code::invalid);
      REQUIRE(refused.error().message().find("descriptors") != std::string::npos);
    }
    REQUIRE(open_descriptors() == before);
    REQUIRE(receive_packet(sockets.b, packet).ok() == (count <= static_cast<int>(fds_max)));
  }
}

TEST_CASE("the largest reply passes: nested lists of many tables") {
  const auto status = frame(wire::Body_Groups, [](auto& builder) {
    std::vector<flatbuffers::Offset<wire::GroupInfo>> groups;
    for (int g = 0; g < 50; ++g) {
      std::vector<flatbuffers::Offset<wire::SeatInfo>> seats;
      for (int rank = 0; rank < 64; ++rank) seats.push_back(wire::CreateSeatInfo(builder));
      groups.push_back(wire::CreateGroupInfoDirect(builder, "g", 0, 0, nullptr, 0, nullptr, &seats));
    }
    return wire::CreateGroupsDirect(builder, &groups);
  });
  REQUIRE(verify_frame(status));
}

TEST_CASE("a frame that names one table over and over is refused") {
  const auto bomb = frame(wire::Body_Groups, [](auto& builder) {
    const std::vector<flatbuffers::Offset<wire::SeatInfo>> seats(2000, wire::CreateSeatInfo(builder));
    const std::vector<flatbuffers::Offset<wire::GroupInfo>> groups(
        2000, wire::CreateGroupInfoDirect(builder, "g", 0, 0, nullptr, 0, nullptr, &seats));
    return wire::CreateGroupsDirect(builder, &groups);
  });
  REQUIRE(bomb.size() < 20'000);  // yet reading it would take four million visits
  REQUIRE_FALSE(verify_frame(bomb));
}

TEST_CASE("frames cut or changed anywhere verify or not, but never read out of bounds") {
  const auto seed = GENERATE(range(0u, 20u));
  CAPTURE(seed);
  Random random(seed);
  const std::vector<Bytes> frames{hello("a name"), submit(40), frame(wire::Body_Join, [](auto& builder) {
                                    return wire::CreateJoinDirect(builder, "dp", 1, 4, 30'000, 2, true);
                                  })};
  std::size_t refusals = 0;
  for (const auto& whole : frames) {
    for (std::size_t length = 0; length < whole.size(); ++length) {
      // An exact copy, so that an address sanitizer sees its end.
      const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
      refusals += !verify_frame(cut, Sender::client);
    }
    for (int i = 0; i < 500; ++i) {
      auto changed = whole;
      for (auto changes = random.between(1, 4); changes > 0; --changes)
        changed[random.between(0, changed.size() - 1)] = static_cast<std::byte>(random.bits());
      if (verify_frame(changed, Sender::client)) REQUIRE(verify_frame(changed));
    }
  }
  REQUIRE(refusals > frames.size() * 10);
}

}  // namespace
}  // namespace muster::ipc
