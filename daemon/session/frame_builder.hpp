// One FlatBuffers frame in the making. Only files that build frames include this, as it pulls in the schema.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <muster/ipc/wire_generated.h>

namespace musterd {

namespace wire = muster::ipc::wire;

struct FrameBuilder {
  /// `bytes`: about how large the frame gets. Give it for large frames, as growing takes a copy.
  explicit FrameBuilder(std::uint64_t request_, std::size_t bytes = 1024) : fbb(bytes), request(request_) {}

  [[nodiscard]] std::vector<std::byte> finish(wire::Body type, flatbuffers::Offset<void> body) {
    const auto bytes = finish_in_place(type, body);
    return {bytes.begin(), bytes.end()};
  }
  /// The same without a copy, for large frames. Valid for as long as this builder.
  [[nodiscard]] std::span<const std::byte> finish_in_place(wire::Body type, flatbuffers::Offset<void> body) {
    wire::FinishFrameBuffer(fbb, wire::CreateFrame(fbb, request, type, body));
    return std::as_bytes(std::span(fbb.GetBufferPointer(), fbb.GetSize()));
  }

  flatbuffers::FlatBufferBuilder fbb;
  std::uint64_t request;
};

}  // namespace musterd
