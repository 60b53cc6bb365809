// The store's segments as this process reads them: one read-only mapping for each segment, made when it is first
// needed. Views of this process's own objects use these mappings, too, so no view aliases writable memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/ipc/in_place.hpp>
#include <muster/result.hpp>

#include "base/ordered_mutex.hpp"
#include "segment_mapping.hpp"

namespace muster::detail {

/// A segment's descriptor and size, which the daemon gives to readers. Or what opens memory that was left in place.
struct SegmentHandle {
  ipc::Fd fd;
  std::uint64_t bytes = 0;
  std::optional<ipc::InPlaceMemory> in_place = {};
};

class Segments {
 public:
  using Fetch = std::function<Result<SegmentHandle>(ipc::SegmentId)>;
  using Unmapped = std::function<void(ipc::SegmentId)>;
  using Keep = std::function<std::uint64_t()>;
  /// `mutex` is the connection's, for all of its memory. `unmapped` is called under the lock when a segment that is
  /// gone, or that was dropped, is no longer mapped. `keep` says how many bytes of mappings without users may stay now:
  /// they keep memory that others free. `pins` is how much may be pinned, and lives longer.
  Segments(OrderedMutex& mutex, Fetch fetch, Unmapped unmapped, Keep keep, PinLimit& pins)
      : mutex_(mutex), fetch_(std::move(fetch)), unmapped_(std::move(unmapped)), keep_(std::move(keep)), pins_(pins) {}

  /// Returns where the segment begins, read-only; on a GPU that is the GPU's address. Each use() needs an unuse();
  /// until then the address is valid. Unused mappings are dropped once they are many or large; of memory
  /// that was left in place at once, as its owner waits for that. Invalid if the segment is gone.
  [[nodiscard]] Result<const std::byte*> use(ipc::SegmentId segment, Device device = Device::cpu());
  void unuse(ipc::SegmentId segment);
  /// A private, copy-on-write mapping of a part of a segment: only this process sees its writes. `offset` is page
  /// aligned.
  [[nodiscard]] Result<ipc::Mapping> map_private(ipc::SegmentId segment, std::uint64_t offset, std::uint64_t bytes);

  /// This process gives its own segment back to the daemon; a mapping would keep its memory. False if somebody uses it.
  bool forget(ipc::SegmentId segment);
  /// The daemon no longer has this segment; its live objects have moved. The mapping goes as soon as nobody uses it.
  void gone(ipc::SegmentId segment);

 private:
  struct Entry {
    SegmentMapping mapping;  ///< empty while it is fetched for its first users
    std::uint64_t last_used = 0;
    std::uint64_t users = 0;
    bool gone = false;
  };
  [[nodiscard]] Result<SegmentMapping> map(ipc::SegmentId segment, Device device);
  [[nodiscard]] Result<SegmentMapping> map_for_user(ipc::SegmentId segment, Device device);
  void pin(Entry& entry, std::unique_lock<OrderedMutex>& lock);
  using Entries = std::unordered_map<ipc::SegmentId, Entry>;
  struct Unmap {
    ipc::SegmentId segment;
    SegmentMapping mapping;
    bool gone = false;  ///< the daemon no longer has it
  };
  using Dropped = std::vector<Unmap>;
  [[nodiscard]] SegmentMapping take(Entries::iterator entry);
  [[nodiscard]] Dropped drop_some();
  void tell_unmapped(Dropped dropped);

  OrderedMutex& mutex_;
  Fetch fetch_;
  Unmapped unmapped_;
  Keep keep_;
  PinLimit& pins_;
  Entries entries_;
  std::size_t unused_ = 0;  ///< counts mappings without users
  std::uint64_t unused_bytes_ = 0;
  std::uint64_t clock_ = 0;
};

}  // namespace muster::detail
