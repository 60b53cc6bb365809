#include "session/frames.hpp"

#include <cstring>

#include "session/frame_builder.hpp"

namespace musterd::frames {

namespace ipc = muster::ipc;

Bytes ok(std::uint64_t request) {
  FrameBuilder frame(request);
  return frame.finish(wire::Body_Ok, wire::CreateOk(frame.fbb).Union());
}

Bytes failure(std::uint64_t request, const muster::Error& error) {
  FrameBuilder frame(request);
  auto body =
      wire::CreateFailure(frame.fbb, static_cast<std::uint8_t>(error.code()), frame.fbb.CreateString(error.message()),
                          frame.fbb.CreateString(error.hint()), frame.fbb.CreateVector(error.ranks()));
  return frame.finish(wire::Body_Failure, body.Union());
}

Bytes goodbye(const muster::Error& error) {
  FrameBuilder frame(0);
  auto body = wire::CreateGoodbye(frame.fbb, static_cast<std::uint8_t>(error.code()),
                                  frame.fbb.CreateString(error.message()), frame.fbb.CreateString(error.hint()));
  return frame.finish(wire::Body_Goodbye, body.Union());
}

Bytes segment(std::uint64_t request, const Segment& segment) {
  FrameBuilder frame(request);
  return frame.finish(wire::Body_Segment, wire::CreateSegment(frame.fbb, segment.id().value, segment.bytes()).Union());
}

Bytes object(std::uint64_t request, const Object& object) {
  constexpr std::size_t around = 256;
  FrameBuilder frame(request, ipc::encoded_bytes(object.manifest) + around);
  const wire::Capability capability(object.capability.bits[0], object.capability.bits[1]);
  const auto bytes = [&] {
    std::vector<std::byte> manifest;
    ipc::encode(object.manifest, manifest);
    return frame.fbb.CreateVector(reinterpret_cast<const std::uint8_t*>(manifest.data()), manifest.size());
  }();
  auto body = wire::CreateObject(frame.fbb, object.id.value, &capability, bytes);
  return frame.finish(wire::Body_Object, body.Union());
}

Bytes missing(std::uint64_t request, const std::vector<int>& ranks) {
  FrameBuilder frame(request);
  return frame.finish(wire::Body_Missing, wire::CreateMissing(frame.fbb, frame.fbb.CreateVector(ranks)).Union());
}

}  // namespace musterd::frames
