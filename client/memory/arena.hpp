// The writable memory of this process in the store: segments that the daemon leased to it. The arena cuts them into
// regions. A region is used again only when its object and every local array over it are gone, in either order. It has
// many functions: most are what may happen to a region or to a segment.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/fd.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/ipc/region_allocator.hpp>
#include <muster/result.hpp>

#include "base/ordered_mutex.hpp"
#include "segment_mapping.hpp"

namespace muster::detail {

/// One region that is in use.
struct ArenaRegion {
  std::byte* address = nullptr;  ///< on a GPU, its own
  ipc::SegmentId segment;
  Device device;
  std::uint64_t offset = 0;  ///< of the region in its segment
  std::uint64_t bytes = 0;
  std::uint64_t call = 0;  ///< the decorated call that allocated it; 0: none
  bool fresh = false;      ///< no array was here before, so the bytes are zero until the user writes
};

/// A segment that the daemon granted, mapped for writing.
struct LeasedSegment {
  ipc::SegmentId id;
  ipc::Fd fd;  ///< none for memory of a GPU: nothing needs it once it is mapped
  SegmentMapping mapping;
};

/// Bytes that this process may write, and where they lie in a file.
struct Stretch {
  std::byte* address = nullptr;
  std::uint64_t bytes = 0;
  int fd = -1;
  std::uint64_t offset = 0;  ///< where its first byte is in the file
};

class Arena {
 public:
  /// How the arena gets segments and gives them back. The connection implements it.
  struct Source {
    /// Waits while the store is full, until `stop` returns true.
    std::function<Result<LeasedSegment>(std::uint64_t bytes, std::chrono::nanoseconds timeout,
                                        const std::function<bool()>& stop)>
        lease;
    std::function<void(ipc::SegmentId)> give_back;
    std::function<void()> collect;        ///< reads which objects are gone
    std::function<bool()> memory_wanted;  ///< whether others wait for memory of the store now
  };

  /// `mutex` is the connection's, for all of its memory. `keep_bytes` is how much free memory the arena keeps for its
  /// next arrays while nobody waits for memory. `segments_about` is how many segments it should have at most.
  Arena(OrderedMutex& mutex, Source source, std::uint64_t keep_bytes,
        std::uint64_t segments_about = ipc::RegionAllocator::most_segments, Device device = Device::cpu())
      : mutex_(mutex),
        source_(std::move(source)),
        keep_bytes_(keep_bytes),
        device_(device),
        allocator_(segments_about) {}

  [[nodiscard]] Device device() const { return device_; }

  /// Writable memory for `bytes` bytes (0 counts as 1), at least 64-byte aligned. If no segment has room, asks the
  /// daemon for one and waits up to `timeout`.
  [[nodiscard]] Result<std::byte*> allocate(std::uint64_t bytes, std::uint64_t call, std::chrono::nanoseconds timeout);
  /// The same if this process's segments have room; nothing otherwise. Never waits.
  [[nodiscard]] std::optional<ArenaRegion> allocate_here(std::uint64_t bytes, std::uint64_t call);
  /// The local array over the region that begins here is gone.
  void free(void* address);
  /// The region in use that contains the address. Nothing if the address is in none.
  [[nodiscard]] std::optional<ArenaRegion> find(const void* address) const;
  [[nodiscard]] std::uint64_t allocated_bytes() const;
  [[nodiscard]] bool owns(const void* address) const { return find(address).has_value(); }

  /// These regions now belong to the object, until object_gone(). Invalid if an address is not in a region in use.
  [[nodiscard]] Result<void> adopt(ipc::ObjectId object, std::span<const std::byte* const> addresses);
  /// The same for a segment outside the arena. It goes back when the object is gone.
  void adopt_hard(ipc::ObjectId object, ipc::SegmentId segment);
  void object_gone(ipc::ObjectId object);
  /// This process has let go of its object. Returns true if the object's end would free more than this process may
  /// keep: then a short wait for that end is worthwhile.
  [[nodiscard]] bool released(ipc::ObjectId object);
  /// The wait for the object's end was in vain, as others hold the object.
  void still_held(ipc::ObjectId object);
  [[nodiscard]] bool has(ipc::ObjectId object) const;
  /// The object goes to other processes, which may let go of it while this process reads no news. If such objects keep
  /// more memory than this process may keep free, returns the segments that have nothing else: see hand_over().
  [[nodiscard]] std::vector<ipc::SegmentId> share(ipc::ObjectId object);
  /// This process stops writing into the segment and unmaps it. Returns false if the segment has anything else by now.
  [[nodiscard]] bool hand_over(ipc::SegmentId segment);

  /// Gives back segments that are wholly free, but keeps a little of shared segments: small arrays must not wait for
  /// memory that others hold.
  void trim();
  /// A hard lease lies outside the arena, but a forked child must not write into it either.
  void add_hard_lease(const LeasedSegment& segment);
  void forget_hard_lease(ipc::SegmentId segment);

  // For a fork. The caller holds the lock.
  /// What a fork must copy: regions that local arrays use and that are not sealed, and hard leases.
  [[nodiscard]] std::vector<Stretch> unsealed() const;
  /// Everything that a forked child must not write into.
  [[nodiscard]] std::vector<Stretch> writable() const;
  /// In a forked child: free() does nothing, and allocations fail.
  void disown() { disowned_ = true; }

 private:
  struct Region {
    ArenaRegion region;
    bool local = true;          ///< a local array lies over it
    std::uint32_t objects = 0;  ///< how many live objects are in it
    /// Set if the region has only one object and that is on its way to others. 0: none.
    ipc::ObjectId shared;
  };
  using Regions = boost::unordered_flat_map<const std::byte*, Region>;

  /// The contents of a segment.
  struct Contents {
    std::uint32_t regions = 0;
    std::uint32_t shared = 0;  ///< how many of these have only objects on their way to others
    std::uint64_t bytes = 0;
    std::uint64_t used_end = 0;  ///< no region was ever behind this; a new segment is filled with zeros
    std::map<ipc::ObjectId, std::uint32_t> sharing;  ///< how many regions of the segment each such object has
  };
  void set_shared(Region& region, ipc::ObjectId object);
  /// Whether the segment has only objects that are on their way to others, and they fill at least half of it.
  [[nodiscard]] bool is_all_shared(ipc::SegmentId segment) const;
  std::optional<ArenaRegion> place(std::uint64_t bytes, std::uint64_t call);
  ArenaRegion use(const ipc::RegionAllocator::Region& region, std::uint64_t call);
  void release_if_unused(Regions::iterator region);
  /// The region that contains the address; end() if there is none.
  [[nodiscard]] Regions::const_iterator region_of(const std::byte* address) const;
  using Idle = std::vector<LeasedSegment>;
  /// Removes segments that have been wholly free for a while, or are more than `keep_bytes`. The caller unmaps them and
  /// tells the daemon, without the lock: a driver may take long to unmap memory.
  [[nodiscard]] Idle take_idle(std::uint64_t keep_bytes);
  /// The same after something became free. Most often there is nothing to do; then it costs next to nothing.
  [[nodiscard]] Idle take_excess();
  [[nodiscard]] std::vector<std::pair<std::chrono::steady_clock::time_point, ipc::SegmentId>> by_age(
      std::chrono::steady_clock::time_point now);
  [[nodiscard]] LeasedSegment remove(ipc::SegmentId segment);
  void give_back(Idle idle);
  [[nodiscard]] Result<LeasedSegment> lease_for(std::uint64_t bytes, std::chrono::nanoseconds timeout,
                                                const std::function<bool()>& stop);
  /// The first region of a new segment, for the caller that the segment was leased for.
  [[nodiscard]] std::byte* place_in(LeasedSegment segment, std::uint64_t bytes, std::uint64_t call);

  OrderedMutex& mutex_;
  Source source_;
  std::uint64_t keep_bytes_;
  Device device_;
  ipc::RegionAllocator allocator_;
  std::unordered_map<ipc::SegmentId, LeasedSegment> segments_;
  std::map<const std::byte*, ipc::SegmentId> by_address_;  ///< where each segment begins
  std::chrono::steady_clock::time_point next_look_;        ///< when to look for segments that have been free for long
  std::unordered_map<ipc::SegmentId, std::chrono::steady_clock::time_point> free_since_;
  Regions regions_;  ///< by their first address
  std::unordered_map<ipc::SegmentId, Contents> contents_;
  std::uint64_t shared_bytes_ = 0;
  struct Adopted {
    std::vector<const std::byte*> regions;  ///< their first addresses
    std::uint64_t released_bytes = 0;       ///< how much is known to become free when the object ends
  };
  void forget_released(Adopted& adopted);
  std::unordered_map<ipc::ObjectId, Adopted> objects_;
  std::uint64_t released_bytes_ = 0;  ///< sum over all objects
  std::unordered_map<ipc::ObjectId, ipc::SegmentId> hard_objects_;
  std::unordered_map<ipc::SegmentId, Stretch> hard_leases_;
  bool disowned_ = false;
};

}  // namespace muster::detail
