#include "memory/result_pool.hpp"

#include <algorithm>
#include <utility>

#include "base/assert.hpp"

namespace musterd {

using muster::Result;

ResultRegion::ResultRegion(ResultRegion&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      user_(other.user_),
      segment_(other.segment_),
      offset_(other.offset_),
      bytes_(other.bytes_),
      data_(other.data_) {}

ResultRegion& ResultRegion::operator=(ResultRegion&& other) noexcept {
  if (this == &other) return *this;
  reset();
  pool_ = std::exchange(other.pool_, nullptr);
  user_ = other.user_;
  segment_ = other.segment_;
  offset_ = other.offset_;
  bytes_ = other.bytes_;
  data_ = other.data_;
  return *this;
}

void ResultRegion::reset() {
  auto* pool = std::exchange(pool_, nullptr);
  if (!pool) return;
  pool->users_.at(user_).allocator.free(segment_, offset_);
  ++pool->region_releases_;
}

Result<ResultRegion> ResultPool::allocate(UserId user, std::uint64_t bytes) {
  MUSTER_ASSERT(bytes > 0, "results without bytes need no region");
  auto& pool = users_[user];
  auto region = pool.allocator.allocate(bytes);
  if (!region) {
    auto segment = grow(user, bytes);
    if (!segment) return segment.error();
    pool.allocator.add_segment((*segment)->id(), (*segment)->bytes());
    pool.segments.emplace((*segment)->id(), *segment);
    region = pool.allocator.allocate(bytes);
    MUSTER_ASSERT(region, "a new segment has room for what it was made for");
  }
  ResultRegion result;
  result.pool_ = this;
  result.user_ = user;
  result.segment_ = region->segment;
  result.offset_ = region->offset;
  result.bytes_ = bytes;
  result.data_ = pool.segments.at(region->segment)->data() + region->offset;
  return result;
}

Result<SegmentPtr> ResultPool::grow(UserId user, std::uint64_t bytes) {
  // The allocator pads to pages and may keep one slab for small regions beside it.
  constexpr std::uint64_t slack = 128 << 10;
  const std::uint64_t needed = bytes + slack;
  if (needed <= segment_bytes_) {
    auto segment = segments_.create_result(user, segment_bytes_);
    const bool no_room = !segment && (segment.error().code() == muster::Code::out_of_memory ||
                                      segment.error().code() == muster::Code::quota_exceeded);
    if (!no_room) return segment;
  }
  return segments_.create_result(user, needed);
}

std::uint64_t ResultPool::trim() {
  std::uint64_t bytes = 0;
  for (auto& [user, pool] : users_) {
    for (const auto id : pool.allocator.free_segments()) {
      constexpr long held_here_and_in_table = 2;
      auto found = pool.segments.find(id);
      if (found->second.use_count() > held_here_and_in_table) continue;
      bytes += found->second->bytes();
      pool.allocator.remove_segment(id);
      pool.segments.erase(found);
      segments_.drop_result(id);
    }
  }
  return bytes;
}

std::uint64_t ResultPool::used_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& [user, pool] : users_) bytes += pool.allocator.allocated_bytes();
  return bytes;
}

}  // namespace musterd
