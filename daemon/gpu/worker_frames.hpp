// Builds and reads the frames between the daemon and a GPU's worker.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <muster/result.hpp>

#include <gpu/worker_generated.h>

namespace musterd::gpu {

/// The worker's descriptor of the socket to the daemon.
inline constexpr int worker_socket_fd = 3;

/// A packet has at most so many bytes; a job that takes more comes in parts.
inline constexpr std::size_t worker_packet_bytes_max = 48 << 10;

using WorkerFrame = std::vector<std::byte>;

/// Builds a frame. `make_body(fbb)` returns the body's offset.
template <class MakeBody>
WorkerFrame worker_frame(wire::Body type, const MakeBody& make_body) {
  flatbuffers::FlatBufferBuilder fbb;
  const flatbuffers::Offset<void> body = make_body(fbb).Union();
  wire::FinishFrameBuffer(fbb, wire::CreateFrame(fbb, type, body));
  const auto bytes = std::as_bytes(std::span(fbb.GetBufferPointer(), fbb.GetSize()));
  return {bytes.begin(), bytes.end()};
}

/// Null unless the bytes are a frame with a body.
[[nodiscard]] const wire::Frame* read_worker_frame(std::span<const std::byte> bytes);

[[nodiscard]] flatbuffers::Offset<wire::Why> add_why(flatbuffers::FlatBufferBuilder& fbb, const muster::Error& error);
[[nodiscard]] muster::Error error_of(const wire::Why& why);

}  // namespace musterd::gpu
