#include "session/frames.hpp"

#include <optional>

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
  std::optional<wire::InPlace> in_place;
  if (const auto* memory = segment.memory()->in_place()) in_place = ipc::in_place_as<wire::InPlace>(*memory);
  return frame.finish(
      wire::Body_Segment,
      wire::CreateSegment(frame.fbb, segment.id().value, segment.bytes(), in_place ? &*in_place : nullptr).Union());
}

Bytes missing(std::uint64_t request, const std::vector<int>& ranks) {
  FrameBuilder frame(request);
  return frame.finish(wire::Body_Missing, wire::CreateMissing(frame.fbb, frame.fbb.CreateVector(ranks)).Union());
}

}  // namespace musterd::frames
