// The writable memory of this process inside the store: segments that the daemon leased to it, cut into regions here.
// A region is used again only when the object that lies in it and every local array over it are gone, in either order.
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

#include <muster/ipc/fd.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/ipc/region_allocator.hpp>
#include <muster/result.hpp>

#include "base/ordered_mutex.hpp"

namespace muster::detail {

/// One region that is in use.
struct ArenaRegion {
  std::byte* address = nullptr;
  ipc::SegmentId segment;
  std::uint64_t offset = 0;  ///< of the region in its segment
  std::uint64_t bytes = 0;
  std::uint64_t call = 0;  ///< the decorated call that it was allocated in; 0: none
  bool fresh = false;      ///< nothing has lain there before: its bytes are zero until its user writes
};

/// A segment that the daemon granted, mapped for writing.
struct LeasedSegment {
  ipc::SegmentId id;
  ipc::Fd fd;
  ipc::Mapping mapping;
};

/// Bytes that this process may write, and where they lie in a file.
struct Stretch {
  std::byte* address = nullptr;
  std::uint64_t bytes = 0;
  int fd = -1;
  std::uint64_t offset = 0;  ///< of its first byte in the file
};

class Arena {
 public:
  /// How the arena gets and gives back segments; the connection's business.
  struct Source {
    /// Waits while the store is full, until `stop` says that it need not.
    std::function<Result<LeasedSegment>(std::uint64_t bytes, std::chrono::nanoseconds timeout,
                                        const std::function<bool()>& stop)>
        lease;
    std::function<void(ipc::SegmentId)> give_back;
    std::function<void()> collect;        ///< hears of objects that are gone
    std::function<bool()> memory_wanted;  ///< whether others wait for memory of the store now
  };

  /// `mutex`: the connection's, for all of its memory.
  /// `keep_bytes`: how much of what is free it keeps for its next arrays while nobody waits for memory.
  /// `segments_about`: how many segments it should hold at most.
  Arena(OrderedMutex& mutex, Source source, std::uint64_t keep_bytes,
        std::uint64_t segments_about = ipc::RegionAllocator::most_segments)
      : mutex_(mutex), source_(std::move(source)), keep_bytes_(keep_bytes), allocator_(segments_about) {}

  /// Writable memory for `bytes` bytes (0 counts as 1), at least 64-byte aligned. Asks the daemon for a segment if none
  /// has room, and waits for it up to `timeout`.
  [[nodiscard]] Result<std::byte*> allocate(std::uint64_t bytes, std::uint64_t call, std::chrono::nanoseconds timeout);
  /// The same if there is room in what this process has; nothing otherwise. Never waits.
  [[nodiscard]] std::optional<ArenaRegion> allocate_here(std::uint64_t bytes, std::uint64_t call);
  /// The local array over the region that begins here is gone.
  void free(void* address);
  /// The region that contains the address, if it is one of this arena's in use.
  [[nodiscard]] std::optional<ArenaRegion> find(const void* address) const;
  [[nodiscard]] std::uint64_t allocated_bytes() const;
  [[nodiscard]] bool owns(const void* address) const { return find(address).has_value(); }

  /// These regions now belong to the object, until object_gone(). Invalid if an address is in no region in use.
  [[nodiscard]] Result<void> adopt(ipc::ObjectId object, std::span<const std::byte* const> addresses);
  /// The same for a segment outside of the arena, which goes back when the object is gone.
  void adopt_hard(ipc::ObjectId object, ipc::SegmentId segment);
  void object_gone(ipc::ObjectId object);
  /// This process has let go of its object. True if what becomes free with the object's end is more than it may keep:
  /// then its end is worth a short wait.
  [[nodiscard]] bool released(ipc::ObjectId object);
  /// That wait was in vain, as others hold the object.
  void still_held(ipc::ObjectId object);
  [[nodiscard]] bool has(ipc::ObjectId object) const;
  /// The object is on its way to others, who may let go of it while this process hears of nothing. Segments in which
  /// nothing else lies, if such objects keep more than this process may keep free: see hand_over().
  [[nodiscard]] std::vector<ipc::SegmentId> share(ipc::ObjectId object);
  /// This process writes no more into the segment, and unmaps it. False if something else lies there by now.
  [[nodiscard]] bool hand_over(ipc::SegmentId segment);

  /// Gives back what is wholly free, but for a little of shared segments: small arrays must not wait for what others
  /// hold.
  void trim();
  /// A hard lease lies outside of the arena, yet a forked child must not write into it either.
  void add_hard_lease(const LeasedSegment& segment);
  void forget_hard_lease(ipc::SegmentId segment);

  // For a fork, whose caller holds the lock.
  /// In use by local arrays and not sealed, and hard leases: what a fork must copy.
  [[nodiscard]] std::vector<Stretch> unsealed() const;
  /// All that a forked child must not write into.
  [[nodiscard]] std::vector<Stretch> writable() const;
  /// In a forked child: frees go nowhere, allocations fail.
  void disown() { disowned_ = true; }

 private:
  struct Region {
    ArenaRegion region;
    bool local = true;          ///< a local array lies over it
    std::uint32_t objects = 0;  ///< live objects in it
    /// The one object that lies there and is on its way to others, when nothing else does. 0: none.
    ipc::ObjectId shared;
  };
  using Regions = boost::unordered_flat_map<const std::byte*, Region>;

  /// What lies in a segment.
  struct Contents {
    std::uint32_t regions = 0;
    std::uint32_t shared = 0;  ///< of these
    std::uint64_t bytes = 0;
    std::uint64_t used_end = 0;  ///< behind it no region has ever been: a segment comes with zero bytes
    std::map<ipc::ObjectId, std::uint32_t> sharing;  ///< how many regions each of these objects has here
  };
  void set_shared(Region& region, ipc::ObjectId object);
  /// Whether nothing lies there but objects that are on their way to others, and not much less than it has room for.
  [[nodiscard]] bool is_all_shared(ipc::SegmentId segment) const;
  std::optional<ArenaRegion> place(std::uint64_t bytes, std::uint64_t call);
  ArenaRegion use(const ipc::RegionAllocator::Region& region, std::uint64_t call);
  void release_if_unused(Regions::iterator region);
  /// The region that contains the address; end() if none does.
  [[nodiscard]] Regions::const_iterator region_of(const std::byte* address) const;
  using Idle = std::vector<ipc::SegmentId>;
  /// Takes segments out that have been wholly free for a while, or are more than `keep_bytes`; the caller tells the
  /// daemon, unlocked.
  [[nodiscard]] Idle take_idle(std::uint64_t keep_bytes);
  /// The same after something became free: most often nothing is to be done, which costs next to nothing.
  [[nodiscard]] Idle take_excess();
  [[nodiscard]] std::vector<std::pair<std::chrono::steady_clock::time_point, ipc::SegmentId>> by_age(
      std::chrono::steady_clock::time_point now);
  void remove(ipc::SegmentId segment);
  void give_back(const Idle& idle);
  [[nodiscard]] Result<LeasedSegment> lease_for(std::uint64_t bytes, std::chrono::nanoseconds timeout,
                                                const std::function<bool()>& stop);
  /// The first region of a new segment: that of whom it was leased for.
  [[nodiscard]] std::byte* place_in(LeasedSegment segment, std::uint64_t bytes, std::uint64_t call);

  OrderedMutex& mutex_;
  Source source_;
  std::uint64_t keep_bytes_;
  ipc::RegionAllocator allocator_;
  std::unordered_map<ipc::SegmentId, LeasedSegment> segments_;
  std::map<const std::byte*, ipc::SegmentId> by_address_;  ///< where each begins
  std::chrono::steady_clock::time_point next_look_;        ///< for segments that have been free for long
  std::unordered_map<ipc::SegmentId, std::chrono::steady_clock::time_point> free_since_;
  Regions regions_;  ///< by where they begin
  std::unordered_map<ipc::SegmentId, Contents> contents_;
  std::uint64_t shared_bytes_ = 0;
  struct Adopted {
    std::vector<const std::byte*> regions;  ///< where they begin
    std::uint64_t released_bytes = 0;       ///< what is known to become free with it
  };
  void forget_released(Adopted& adopted);
  std::unordered_map<ipc::ObjectId, Adopted> objects_;
  std::uint64_t released_bytes_ = 0;  ///< of all objects
  std::unordered_map<ipc::ObjectId, ipc::SegmentId> hard_objects_;
  std::unordered_map<ipc::SegmentId, Stretch> hard_leases_;
  bool disowned_ = false;
};

}  // namespace muster::detail
