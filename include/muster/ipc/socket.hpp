// Frames over a SOCK_SEQPACKET Unix socket: a packet and its file descriptors arrive together or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/result.hpp>

namespace muster::ipc {

inline constexpr std::uint32_t protocol_version = 10;
inline constexpr std::size_t inline_bytes_max = 64 << 10;  ///< larger frames of the daemon come in parts
inline constexpr std::size_t frame_bytes_max = 32 << 20;
inline constexpr std::size_t part_bytes_max = 48 << 10;   ///< of what comes in parts: a frame, or a client's record
inline constexpr std::size_t submit_bytes_max = 4 << 20;  ///< of all parts of a record
inline constexpr std::size_t fds_max = 8;                 ///< in one packet

struct Packet {
  std::vector<std::byte> bytes;
  std::vector<Fd> fds;
  bool lost_fds = false;  ///< some came with it and could not be opened, so there are none: see descriptors_lost()
  std::vector<std::byte> begun;  ///< what has come of a frame in parts; the next call with this packet goes on
};

/// QuotaExceeded: this process may open no more.
[[nodiscard]] Error descriptors_lost();

enum class Received { packet, would_block, closed };

/// Whom a packet comes from. The daemon takes only what a client may send: no descriptors, no parts,
/// and bodies that are small tables, checked in constant time, while a reply's nested lists could be made to cost the
/// square of their size.
enum class Sender { client, any };

/// What a frame that is too large for a packet travels in: frames to be sent one after the other, with nothing between.
[[nodiscard]] std::vector<std::vector<std::byte>> parts_of(std::span<const std::byte> frame);

/// Sends one frame that fits a packet. False: the socket's buffer is full (non-blocking sockets only).
/// OutOfMemory: the system has no room for it now; DaemonUnavailable: the other end is gone.
[[nodiscard]] Result<bool> send_packet(const Fd& socket, std::span<const std::byte> frame, std::span<const int> fds);

/// Receives one packet, or all of one frame that comes in parts; would_block if the rest of it has not come. A
/// truncated packet, too many descriptors or parts that make no frame are Invalid; all descriptors that came with them
/// are closed. A client's packet with any is Invalid and stays where it is: to close a descriptor can take as long as
/// its maker likes, and so can to receive it. Descriptors that this process may not open show as `lost_fds`. The frame
/// inside has been verified as a flatbuffer with tight limits; its body may still be any of the sender's or none.
[[nodiscard]] Result<Received> receive_packet(const Fd& socket, Packet& packet, Sender sender = Sender::any);

/// Verifies that `frame` is a Frame of the schema, within limits on depth and tables that a small frame can't turn into
/// work.
[[nodiscard]] bool verify_frame(std::span<const std::byte> frame, Sender sender = Sender::any);

}  // namespace muster::ipc
