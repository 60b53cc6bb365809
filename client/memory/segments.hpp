// The store's segments as this process reads them: one read-only mapping a segment, made when it is first needed.
// Views of objects made here go through these, too, so that no view aliases writable memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

#include "base/ordered_mutex.hpp"

namespace muster::detail {

/// A segment's descriptor and size, as the daemon gives them for reading.
struct SegmentHandle {
  ipc::Fd fd;
  std::uint64_t bytes = 0;
};

class Segments {
 public:
  using Fetch = std::function<Result<SegmentHandle>(ipc::SegmentId)>;
  using Unmapped = std::function<void(ipc::SegmentId)>;
  using Keep = std::function<std::uint64_t()>;
  /// `mutex`: the connection's, for all of its memory.
  /// `unmapped` hears when nothing of a segment is mapped any more that is gone, or that was dropped; the lock is held.
  /// `keep`: how many bytes of mappings without users may stay now. They would keep memory that others free.
  Segments(OrderedMutex& mutex, Fetch fetch, Unmapped unmapped, Keep keep)
      : mutex_(mutex), fetch_(std::move(fetch)), unmapped_(std::move(unmapped)), keep_(std::move(keep)) {}

  /// Where the segment begins; read-only. Valid until as many unuse(): unused mappings go once they are many or large.
  /// Invalid if it is gone.
  [[nodiscard]] Result<const std::byte*> use(ipc::SegmentId segment);
  void unuse(ipc::SegmentId segment);
  /// A private, copy-on-write mapping of a part of a segment; writes show in this process only. `offset` is page
  /// aligned.
  [[nodiscard]] Result<ipc::Mapping> map_private(ipc::SegmentId segment, std::uint64_t offset, std::uint64_t bytes);

  /// This process gives its own segment back to the daemon: a mapping would keep its memory. False if somebody uses it.
  bool forget(ipc::SegmentId segment);
  /// The daemon has no such segment any more: what lay there and still lives has moved. Its mapping goes as soon as
  /// nobody uses it.
  void gone(ipc::SegmentId segment);

 private:
  struct Entry {
    ipc::Mapping mapping;  ///< none while it is fetched for its first users
    std::uint64_t last_used = 0;
    std::uint64_t users = 0;
    bool gone = false;
  };
  [[nodiscard]] Result<ipc::Mapping> map(ipc::SegmentId segment);
  [[nodiscard]] Result<ipc::Mapping> map_for_user(ipc::SegmentId segment);
  using Entries = std::unordered_map<ipc::SegmentId, Entry>;
  struct Unmap {
    ipc::SegmentId segment;
    ipc::Mapping mapping;
    bool gone = false;  ///< with the daemon
  };
  using Dropped = std::vector<Unmap>;
  [[nodiscard]] ipc::Mapping take(Entries::iterator entry);
  [[nodiscard]] Dropped drop_some();
  void tell_unmapped(Dropped dropped);

  OrderedMutex& mutex_;
  Fetch fetch_;
  Unmapped unmapped_;
  Keep keep_;
  Entries entries_;
  std::size_t unused_ = 0;  ///< mappings without users
  std::uint64_t unused_bytes_ = 0;
  std::uint64_t clock_ = 0;
};

}  // namespace muster::detail
