#include "memory/result_pool.hpp"

#include <algorithm>
#include <new>
#include <utility>

#include "base/assert.hpp"

namespace musterd {

using muster::Result;

namespace {

bool is_lost(const Segment& segment) { return segment.memory() && segment.memory()->is_lost(); }

muster::Error lost_segment(SegmentId id) {
  return {muster::Code::out_of_memory, label(id) + " could not be made, and is still given up",
          "try again in a moment"};
}

}  // namespace

ResultRegion::ResultRegion(ResultRegion&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      home_(other.home_),
      segment_(other.segment_),
      offset_(other.offset_),
      bytes_(other.bytes_),
      memory_(other.memory_) {}

ResultRegion& ResultRegion::operator=(ResultRegion&& other) noexcept {
  if (this == &other) return *this;
  reset();
  pool_ = std::exchange(other.pool_, nullptr);
  home_ = other.home_;
  segment_ = other.segment_;
  offset_ = other.offset_;
  bytes_ = other.bytes_;
  memory_ = other.memory_;
  return *this;
}

void ResultRegion::reset() {
  if (auto* pool = std::exchange(pool_, nullptr)) pool->take_back(*this);
}

PoolApart::PoolApart(PoolApart&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), segments_(other.segments_) {}

PoolApart& PoolApart::operator=(PoolApart&& other) noexcept {
  if (this == &other) return *this;
  reset();
  pool_ = std::exchange(other.pool_, nullptr);
  segments_ = other.segments_;
  return *this;
}

void PoolApart::reset() {
  if (auto* pool = std::exchange(pool_, nullptr)) pool->end(*segments_);
}

PoolApart ResultPool::make_apart(ResultOwner owner) {
  PoolApart made;
  made.pool_ = this;
  made.segments_ = &apart_.try_emplace(++last_apart_, owner, segments_about_).first->second;
  made.segments_->apart = last_apart_;
  return made;
}

ResultSegments& ResultPool::home_of(ResultOwner owner) {
  return users_.try_emplace({owner.user, memory_of(owner.device)}, owner, segments_about_).first->second;
}

ResultSegments& ResultPool::home_of(const PoolApart& apart) const {
  MUSTER_ASSERT(apart.pool_ == this, "a pool apart is one of the pool's own");
  return *apart.segments_;
}

Result<ResultRegion> ResultPool::allocate(ResultOwner owner, std::uint64_t bytes, Turn turn) {
  return made(book(owner, bytes, turn));
}

Result<ResultRegion> ResultPool::allocate(const PoolApart& apart, std::uint64_t bytes, Turn turn) {
  return made(book(apart, bytes, turn));
}

Result<ResultRegion> ResultPool::book(ResultOwner owner, std::uint64_t bytes, Turn turn) {
  return book(home_of(owner), bytes, turn);
}

Result<ResultRegion> ResultPool::book(const PoolApart& apart, std::uint64_t bytes, Turn turn) {
  return book(home_of(apart), bytes, turn);
}

Result<ResultRegion> ResultPool::book(ResultSegments& home, std::uint64_t bytes, Turn turn) {
  MUSTER_ASSERT(bytes > 0, "results without bytes need no region");
  auto region = home.allocator.allocate(bytes);
  // A segment may have been free before it was known that it can't be made.
  while (region && !home.device.is_host() && is_lost(*home.segments.at(region->segment))) {
    home.allocator.free(region->segment, region->offset);
    const bool dropped = drop_if_useless(home, region->segment);
    count(home);
    if (!dropped) return lost_segment(region->segment);
    region = home.allocator.allocate(bytes);
  }
  if (!region) {
    auto segment = grow(home, bytes, turn);
    if (!segment) return segment.error();
    const SegmentId id = (*segment)->id();
    try {
      home.segments.emplace(id, *segment);
      region = home.allocator.allocate_with(id, (*segment)->bytes(), bytes);
    } catch (const std::bad_alloc&) {
      home.segments.erase(id);
      segments_.drop_result(id);
      throw;
    }
  }
  count(home);
  ResultRegion result;
  result.pool_ = this;
  result.home_ = &home;
  result.segment_ = region->segment;
  result.offset_ = region->offset;
  result.bytes_ = bytes;
  return result;
}

Result<void> ResultPool::make(ResultRegion& region) {
  const SegmentPtr& segment = segment_of(region);
  if (!segment->memory())
    if (auto done = segments_.make_result(segment); !done) return done.error();
  region.memory_ = segment->memory().get();
  return {};
}

Result<ResultRegion> ResultPool::made(Result<ResultRegion> booked) {
  if (booked)
    if (auto done = make(*booked); !done) return done.error();
  return booked;
}

Result<SegmentPtr> ResultPool::grow(const ResultSegments& home, std::uint64_t bytes, Turn turn) {
  const auto wanted = home.allocator.wanted(bytes);
  const auto least = home.allocator.least(bytes);
  auto segment = segments_.book_result(home.user, wanted, turn, home.device);
  const bool no_room = !segment && (segment.error().code() == muster::Code::out_of_memory ||
                                    segment.error().code() == muster::Code::quota_exceeded);
  return no_room && least < wanted ? segments_.book_result(home.user, least, turn, home.device) : segment;
}

void ResultPool::take_back(const ResultRegion& region) {
  ResultSegments& home = *region.home_;
  home.allocator.free(region.segment_, region.offset_);
  ++region_releases_;
  if (!region.memory_ || (!home.device.is_host() && region.memory_->is_lost())) drop_if_useless(home, region.segment_);
  count(home);
  if (home.ended) end(home);
}

/// Ends a free segment that was only booked, or that could not be made. It has no memory that could be used again.
bool ResultPool::drop_if_useless(ResultSegments& home, SegmentId id) {
  const auto found = home.segments.find(id);
  if ((found->second->memory() && !is_lost(*found->second)) || !home.allocator.is_free(id)) return false;
  home.allocator.remove_segment(id);
  home.segments.erase(found);
  segments_.drop_result(id);
  return true;
}

void ResultPool::end(ResultSegments& home) {
  home.ended = true;
  if (home.allocator.allocated_bytes() > 0) return;
  for (const auto& [id, segment] : home.segments) segments_.drop_result(id);
  free_[memory_of(home.device)] -= home.free_bytes;
  apart_.erase(home.apart);
}

/// Follows each change of a pool's regions or segments.
void ResultPool::count(ResultSegments& home) noexcept {
  const std::uint64_t free = home.allocator.segment_bytes() - home.allocator.allocated_bytes();
  free_[memory_of(home.device)] += free - std::exchange(home.free_bytes, free);
  if (home.allocator.has_free_segment() == home.WithFreeHook::is_linked()) return;
  if (home.WithFreeHook::is_linked()) home.WithFreeHook::unlink();
  else with_free_.push_back(home);
}

template <class Chosen>
std::uint64_t ResultPool::trim_those(Chosen chosen) {
  std::uint64_t bytes = 0;
  for (auto next = with_free_.begin(); next != with_free_.end();) {
    ResultSegments& home = *next++;
    if (chosen(home)) bytes += trim(home);
  }
  return bytes;
}

std::uint64_t ResultPool::trim() {
  return trim_those([](const ResultSegments&) { return true; });
}

std::uint64_t ResultPool::trim(Resource memory) {
  return trim_those([&](const ResultSegments& home) { return memory_of(home.device) == memory; });
}

std::uint64_t ResultPool::trim(Resource memory, UserId user) {
  return trim_those([&](const ResultSegments& home) { return home.user == user && memory_of(home.device) == memory; });
}

std::uint64_t ResultPool::trim(ResultSegments& home) {
  std::uint64_t bytes = 0;
  for (const auto id : home.allocator.free_segments()) {
    constexpr long held_here_and_in_table = 2;
    auto found = home.segments.find(id);
    if (found->second.use_count() > held_here_and_in_table) continue;
    bytes += found->second->bytes();
    home.allocator.remove_segment(id);
    home.segments.erase(found);
    segments_.drop_result(id);
  }
  count(home);
  return bytes;
}

std::uint64_t ResultPool::used_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& [user, home] : users_) bytes += home.allocator.allocated_bytes();
  for (const auto& [number, home] : apart_) bytes += home.allocator.allocated_bytes();
  return bytes;
}

}  // namespace musterd
