#include "gpu/worker_frames.hpp"

namespace musterd::gpu {

using muster::Code;
using muster::Error;

const wire::Frame* read_worker_frame(std::span<const std::byte> bytes) {
  const auto* begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
  flatbuffers::Verifier verifier(begin, bytes.size());
  if (!wire::VerifyFrameBuffer(verifier)) return nullptr;
  const auto* frame = wire::GetFrame(begin);
  return frame->body() ? frame : nullptr;
}

flatbuffers::Offset<wire::Why> add_why(flatbuffers::FlatBufferBuilder& fbb, const Error& error) {
  const auto message = fbb.CreateString(error.message());
  const auto hint = fbb.CreateString(error.hint());
  return wire::CreateWhy(fbb, static_cast<std::uint8_t>(error.code()), message, hint);
}

Error error_of(const wire::Why& why) {
  const bool known = why.code() >= 1 && why.code() <= muster::code_count;
  return {known ? static_cast<Code>(why.code()) : Code::failed, why.message()->str(), why.hint()->str()};
}

}  // namespace musterd::gpu
