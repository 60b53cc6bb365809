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

inline constexpr std::uint32_t protocol_version = 14;
inline constexpr std::size_t inline_bytes_max = 64 << 10;  ///< larger frames of the daemon come in parts
inline constexpr std::size_t frame_bytes_max = 32 << 20;
inline constexpr std::size_t part_bytes_max = 48 << 10;   ///< of one part of a frame, or of a client's record
inline constexpr std::size_t submit_bytes_max = 4 << 20;  ///< of all parts of a record
inline constexpr std::size_t fds_max = 8;                 ///< in one packet

struct Packet {
  std::vector<std::byte> bytes;
  std::vector<Fd> fds;
  bool lost_fds = false;         ///< some descriptors could not be opened, so `fds` is empty: see descriptors_lost()
  std::vector<std::byte> begun;  ///< the parts of a frame so far; the next call with this packet goes on
};

/// QuotaExceeded: this process may open no more descriptors.
[[nodiscard]] Error descriptors_lost();

enum class Received { packet, would_block, closed };

/// Whom a packet comes from. The daemon takes only what a client may send: no descriptors, no parts, and only bodies
/// that are small tables. These are checked in constant time, while the nested lists of a reply could be made to cost
/// the square of their size.
enum class Sender { client, any };

/// Splits a frame that is too large for a packet into frames, which must be sent one after the other with nothing in
/// between.
[[nodiscard]] std::vector<std::vector<std::byte>> parts_of(std::span<const std::byte> frame);

/// Sends one frame that fits a packet. False: the socket's buffer is full (non-blocking sockets only).
/// OutOfMemory: the system has no room for it now; DaemonUnavailable: the other end is gone.
[[nodiscard]] Result<bool> send_packet(const Fd& socket, std::span<const std::byte> frame, std::span<const int> fds);

/// Receives one packet, or all of a frame that comes in parts; would_block if the rest of the frame has not come. A
/// truncated packet, too many descriptors, or parts that don't make a frame are Invalid; all descriptors that came with
/// them are closed. A client's packet with descriptors is Invalid and is not received, as receiving or closing a
/// descriptor can take as long as its maker likes. If this process may not open the descriptors, `lost_fds` is set. The
/// frame has been verified as a flatbuffer with tight limits. Its body may still be any that the sender may send, or
/// none.
[[nodiscard]] Result<Received> receive_packet(const Fd& socket, Packet& packet, Sender sender = Sender::any);

/// Receives one packet as it came, whatever is in it, and only checks that it is complete. Between processes of this
/// program, which have frames of their own.
[[nodiscard]] Result<Received> receive_bytes(const Fd& socket, Packet& packet);

/// Verifies that `frame` is a Frame of the schema. Limits on depth and tables keep a small frame from causing much
/// work.
[[nodiscard]] bool verify_frame(std::span<const std::byte> frame, Sender sender = Sender::any);

}  // namespace muster::ipc
