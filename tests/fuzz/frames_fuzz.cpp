// Whatever bytes arrive on a client's socket: either the frame is refused, or the node answers it.
#include <cstddef>
#include <cstdint>
#include <span>

#include <muster/ipc/socket.hpp>

#include "../session/recorder.hpp"

namespace ipc = muster::ipc;
using namespace musterd;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  if (!ipc::verify_frame(bytes)) return 0;
  testing::Recorder outside;
  NodeSettings settings;
  constexpr std::uint64_t budget = 64 << 20;
  settings.quota.total = settings.quota.per_user = settings.quota.per_client = {budget, 1024, 256, 1024, 64};
  settings.segment_bytes = 1 << 20;
  Node node(settings, outside);
  const TimePoint now{};
  node.connected({1}, {0, 1}, now);
  node.frame({1}, bytes, now);
  node.frame({1}, bytes, now);
  node.disconnected({1}, "died", now);
  return 0;
}
