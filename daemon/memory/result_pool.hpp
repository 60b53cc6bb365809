// Where results are written: per user, a few large segments of the daemon's own, cut into regions and recycled,
// so that steady state touches only pages that are there already.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include <muster/ipc/region_allocator.hpp>
#include <muster/result.hpp>

#include "memory/ledger.hpp"
#include "memory/segment.hpp"

namespace musterd {

class ResultPool;

/// A region of a result segment; goes back to its pool when destroyed. Must not outlive the pool.
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
  [[nodiscard]] std::byte* data() const { return data_; }
  explicit operator bool() const { return pool_ != nullptr; }

 private:
  friend class ResultPool;
  ResultPool* pool_ = nullptr;
  UserId user_ = 0;
  SegmentId segment_;
  std::uint64_t offset_ = 0;
  std::uint64_t bytes_ = 0;
  std::byte* data_ = nullptr;
};

class ResultPool {
 public:
  ResultPool(SegmentTable& segments, std::uint64_t segment_bytes)
      : segments_(segments), segment_bytes_(segment_bytes) {}

  /// bytes >= 1, 64-byte aligned, contents undefined but never another user's. OutOfMemory if there is no room now.
  [[nodiscard]] muster::Result<ResultRegion> allocate(UserId user, std::uint64_t bytes);
  /// Gives segments that are wholly free back: to make room, or because they idle. Returns the bytes given back.
  std::uint64_t trim();
  [[nodiscard]] std::uint64_t used_bytes() const;
  /// Grows with every region that comes back: then an attempt that found no room may find some.
  [[nodiscard]] std::uint64_t region_releases() const { return region_releases_; }

 private:
  friend class ResultRegion;
  struct UserPool {
    muster::ipc::RegionAllocator allocator;
    std::map<SegmentId, SegmentPtr> segments;
  };
  [[nodiscard]] muster::Result<SegmentPtr> grow(UserId user, std::uint64_t bytes);

  SegmentTable& segments_;
  std::uint64_t segment_bytes_;
  std::map<UserId, UserPool> users_;
  std::uint64_t region_releases_ = 0;
};

}  // namespace musterd
