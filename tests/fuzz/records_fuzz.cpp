// Whatever bytes a client writes into its ring: every reader must say Invalid or give a value that writes back.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include <muster/ipc/records.hpp>

namespace ipc = muster::ipc;

namespace {

/// What was read once must read again from what it writes.
template <class Value, class Read>
void round_trip(const muster::Result<Value>& value, Read read) {
  if (!value) return;
  std::vector<std::byte> bytes;
  ipc::write(*value, bytes);
  if (!read(std::span<const std::byte>(bytes)).ok()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::span<const std::byte> body(reinterpret_cast<const std::byte*>(data + 1), size - 1);
  switch (data[0] % 14) {
    case 0: round_trip(ipc::read_seal(body), ipc::read_seal); break;
    case 1: round_trip(ipc::read_contribute(body), ipc::read_contribute); break;
    case 2: round_trip(ipc::read_combine(body), ipc::read_combine); break;
    case 3: round_trip(ipc::read_release(body), ipc::read_release); break;
    case 4: round_trip(ipc::read_pin(body), ipc::read_pin); break;
    case 5: round_trip(ipc::read_done(body), ipc::read_done); break;
    case 6: round_trip(ipc::read_failed(body), ipc::read_failed); break;
    case 7: round_trip(ipc::read_object_gone(body), ipc::read_object_gone); break;
    case 8: round_trip(ipc::read_seal_failed(body), ipc::read_seal_failed); break;
    case 9: round_trip(ipc::read_group_changed(body), ipc::read_group_changed); break;
    case 10: round_trip(ipc::read_unmapped(body), ipc::read_unmapped); break;
    case 11: round_trip(ipc::read_segment_gone(body), ipc::read_segment_gone); break;
    case 12: round_trip(ipc::read_memory_wanted(body), ipc::read_memory_wanted); break;
    default: {
      auto manifest = ipc::decode(body);
      if (!manifest) break;
      std::vector<std::byte> bytes;
      ipc::encode(*manifest, bytes);
      if (!ipc::decode(bytes).ok()) std::abort();
    }
  }
  return 0;
}
