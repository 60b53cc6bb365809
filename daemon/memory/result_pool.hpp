// Where results are written: segments of the daemon, apart for each user and device, cut into regions. Regions are
// recycled, so that steady state touches only pages that are there already. A user that may read one result of a
// segment can read the whole segment. So results that several users get have pools apart.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include <muster/device.hpp>
#include <muster/ipc/region_allocator.hpp>
#include <muster/result.hpp>

#include "memory/ledger.hpp"
#include "memory/place.hpp"
#include "memory/segment_table.hpp"

namespace musterd {

class ResultPool;

/// Links pools that have wholly free segments.
using WithFreeHook = boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

/// For whom a result is, and where. `pinned` is the host's memory here.
struct ResultOwner {
  ResultOwner(UserId user_, muster::Device device_ = muster::Device::cpu())  // NOLINT(google-explicit-constructor)
      : user(user_), device(device_.is_host() ? muster::Device::cpu() : device_) {}
  UserId user;
  muster::Device device;
};

/// The segments of one pool, a user's own or a pool apart.
struct ResultSegments : WithFreeHook {
  ResultSegments(ResultOwner owner, std::uint64_t segments_about)
      : user(owner.user), device(owner.device), allocator(segments_about) {}
  UserId user;  ///< who is charged, and may read them all
  muster::Device device;
  std::uint64_t apart = 0;  ///< 0: the user's own pool; else the number of the pool apart
  bool ended = false;       ///< no more results come: the segments go when they are free
  muster::ipc::RegionAllocator allocator;
  std::map<SegmentId, SegmentPtr> segments;
  std::uint64_t free_bytes = 0;  ///< as counted in the sum of all pools
};

/// A region of a result segment. Goes back to its pool when destroyed, and must not outlive the pool.
class ResultRegion {
 public:
  ResultRegion() = default;
  ResultRegion(ResultRegion&& other) noexcept;
  ResultRegion& operator=(ResultRegion&& other) noexcept;
  ~ResultRegion() { reset(); }
  void reset();

  [[nodiscard]] SegmentId segment() const { return segment_; }
  [[nodiscard]] std::uint64_t offset() const { return offset_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  /// Nowhere until the region is made.
  [[nodiscard]] Place place() const { return {memory_, memory_ ? offset_ : 0}; }
  explicit operator bool() const { return pool_ != nullptr; }

 private:
  friend class ResultPool;
  ResultPool* pool_ = nullptr;
  ResultSegments* home_ = nullptr;
  SegmentId segment_;
  std::uint64_t offset_ = 0;
  std::uint64_t bytes_ = 0;
  const SegmentMemory* memory_ = nullptr;  ///< null until the region is made
};

/// Owns a pool apart: the pool ends when this is destroyed. Must not outlive the ResultPool.
class PoolApart {
 public:
  PoolApart() = default;
  PoolApart(PoolApart&& other) noexcept;
  PoolApart& operator=(PoolApart&& other) noexcept;
  ~PoolApart() { reset(); }
  void reset();
  explicit operator bool() const { return pool_ != nullptr; }

 private:
  friend class ResultPool;
  ResultPool* pool_ = nullptr;
  ResultSegments* segments_ = nullptr;
};

class ResultPool {
 public:
  /// `segments_about`: about how many segments each user has.
  explicit ResultPool(SegmentTable& segments,
                      std::uint64_t segments_about = muster::ipc::RegionAllocator::most_segments)
      : segments_(segments), segments_about_(segments_about) {}

  /// bytes >= 1, 64-byte aligned, contents undefined but never another user's. OutOfMemory if there is no room now.
  [[nodiscard]] muster::Result<ResultRegion> allocate(ResultOwner owner, std::uint64_t bytes,
                                                      Turn turn = Turn::its_own);
  /// The same, in segments of a pool apart.
  [[nodiscard]] muster::Result<ResultRegion> allocate(const PoolApart& apart, std::uint64_t bytes,
                                                      Turn turn = Turn::its_own);
  /// The same, but only books the region. A new segment is then charged, and has no memory before make(). So if an op
  /// needs many regions, it costs little to find out that there is no room for all of them.
  [[nodiscard]] muster::Result<ResultRegion> book(ResultOwner owner, std::uint64_t bytes, Turn turn = Turn::its_own);
  [[nodiscard]] muster::Result<ResultRegion> book(const PoolApart& apart, std::uint64_t bytes,
                                                  Turn turn = Turn::its_own);
  /// False if make() has to make a segment, which takes some system calls.
  [[nodiscard]] static bool is_made(const ResultRegion& region) { return segment_of(region)->memory() != nullptr; }
  [[nodiscard]] muster::Result<void> make(ResultRegion& region);
  /// Makes a pool whose segments hold its own results only; the owner is charged. After its end its segments stay until
  /// their results are gone.
  [[nodiscard]] PoolApart make_apart(ResultOwner owner);
  /// Gives back segments that are wholly free, to make room or because they are idle. Returns how many bytes it gave
  /// back.
  std::uint64_t trim();
  /// The same in one memory only: the host's or a GPU's.
  std::uint64_t trim(Resource memory);
  /// The same for what one user is charged with.
  std::uint64_t trim(Resource memory, UserId user);
  [[nodiscard]] std::uint64_t used_bytes() const;
  /// The free bytes of all segments of this memory. They serve other results, or after trim() anybody.
  [[nodiscard]] std::uint64_t free_bytes(Resource memory = Resource::memory) const { return free_[memory]; }
  [[nodiscard]] std::size_t pools_apart() const { return apart_.size(); }
  /// Grows with every region that comes back. An attempt that found no room may then find some.
  [[nodiscard]] std::uint64_t region_releases() const { return region_releases_; }

 private:
  friend class ResultRegion;
  friend class PoolApart;
  [[nodiscard]] ResultSegments& home_of(ResultOwner owner);
  [[nodiscard]] ResultSegments& home_of(const PoolApart& apart) const;
  [[nodiscard]] static const SegmentPtr& segment_of(const ResultRegion& region) {
    return region.home_->segments.at(region.segment_);
  }
  [[nodiscard]] muster::Result<ResultRegion> book(ResultSegments& home, std::uint64_t bytes, Turn turn);
  [[nodiscard]] muster::Result<ResultRegion> made(muster::Result<ResultRegion> booked);
  [[nodiscard]] muster::Result<SegmentPtr> grow(const ResultSegments& home, std::uint64_t bytes, Turn turn);
  void take_back(const ResultRegion& region);
  bool drop_if_useless(ResultSegments& home, SegmentId segment);
  void end(ResultSegments& home);
  template <class Chosen>
  std::uint64_t trim_those(Chosen chosen);
  std::uint64_t trim(ResultSegments& home);
  void count(ResultSegments& home) noexcept;

  SegmentTable& segments_;
  std::uint64_t segments_about_;
  std::map<std::pair<UserId, Resource>, ResultSegments> users_;
  std::map<std::uint64_t, ResultSegments> apart_;
  /// There may be thousands of pools, so nothing walks over all of them while requests wait.
  boost::intrusive::list<ResultSegments, boost::intrusive::base_hook<WithFreeHook>,
                         boost::intrusive::constant_time_size<false>>
      with_free_;
  Amounts free_;
  std::uint64_t last_apart_ = 0;
  std::uint64_t region_releases_ = 0;
};

}  // namespace musterd
