// Every piece is in its segment's map. The free ones are also in one set over all segments, in the order of choice.
#include <muster/ipc/extents.hpp>

#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <new>
#include <utility>

namespace muster::ipc {

void allocator_misused(const char* what, SegmentId segment, std::uint64_t offset) {
  std::fprintf(stderr, "muster: broken invariant: %s (segment %u, offset %llu)\n", what, segment.value,
               static_cast<unsigned long long>(offset));
  std::abort();
}

Extents::Key Extents::key(SegmentId segment, const Pages& pages, std::uint64_t offset, const Piece& piece) {
  return {piece.bytes == pages.bytes, piece.bytes, std::numeric_limits<std::uint64_t>::max() - piece.freed, segment,
          offset};
}

Extents::Pages& Extents::pages_of(SegmentId segment) {
  const auto found = segments_.find(segment);
  if (found == segments_.end()) allocator_misused("no such segment", segment, 0);
  return found->second;
}

void Extents::add_segment(SegmentId segment, std::uint64_t bytes) {
  const auto [place, is_new] = segments_.try_emplace(segment);
  if (!is_new) allocator_misused("segment added twice", segment, 0);
  auto& pages = place->second;
  pages.bytes = bytes / page_bytes * page_bytes;
  if (pages.bytes == 0) return;
  try {
    const auto all = pages.pieces.emplace(0, Piece{pages.bytes, ++frees_, {}}).first;
    free_.insert(key(segment, pages, 0, all->second));
  } catch (const std::bad_alloc&) {
    segments_.erase(place);
    throw;
  }
}

void Extents::put_among_free(SegmentId segment, const Pages& pages, std::uint64_t offset, Piece& piece) {
  piece.node.value() = key(segment, pages, offset, piece);
  free_.insert(std::move(piece.node));
}

void Extents::remove_segment(SegmentId segment) {
  const auto& pages = pages_of(segment);
  for (const auto& [offset, piece] : pages.pieces) {
    if (piece.freed == 0) allocator_misused("segment removed while in use", segment, offset);
    free_.erase(key(segment, pages, offset, piece));
  }
  segments_.erase(segment);
}

std::optional<Extents::Extent> Extents::take(std::uint64_t bytes) {
  auto best = free_.lower_bound(Key{false, bytes, 0, {}, 0});
  if (best != free_.end() && best->whole_segment) best = free_.lower_bound(Key{true, bytes, 0, {}, 0});
  if (best == free_.end()) return std::nullopt;
  const Extent taken{best->segment, best->offset, bytes};
  auto& pages = pages_of(taken.segment);
  auto& piece = pages.pieces.at(taken.offset);
  if (const std::uint64_t rest_bytes = piece.bytes - bytes; rest_bytes != 0) {
    const std::uint64_t at = taken.offset + bytes;
    const auto rest = pages.pieces.emplace(at, Piece{rest_bytes, piece.freed, {}}).first;
    try {
      free_.insert(key(taken.segment, pages, at, rest->second));
    } catch (const std::bad_alloc&) {
      pages.pieces.erase(rest);
      throw;
    }
  }
  piece = {bytes, 0, free_.extract(best)};
  return taken;
}

std::uint64_t Extents::give(SegmentId segment, std::uint64_t offset) {
  auto& pages = pages_of(segment);
  auto freed = pages.pieces.find(offset);
  if (freed == pages.pieces.end() || freed->second.freed != 0)
    allocator_misused("freed what was not taken", segment, offset);
  const auto bytes = freed->second.bytes;
  freed->second.freed = ++frees_;

  const auto merge = [&](auto left, auto right) {
    left->second.bytes += right->second.bytes;
    pages.pieces.erase(right);
    return left;
  };
  if (const auto next = std::next(freed); next != pages.pieces.end() && next->second.freed != 0) {
    free_.erase(key(segment, pages, next->first, next->second));
    merge(freed, next);
  }
  if (freed != pages.pieces.begin() && std::prev(freed)->second.freed != 0) {
    const auto previous = std::prev(freed);
    free_.erase(key(segment, pages, previous->first, previous->second));
    previous->second.freed = freed->second.freed;
    previous->second.node = std::move(freed->second.node);
    freed = merge(previous, freed);
  }
  put_among_free(segment, pages, freed->first, freed->second);
  return bytes;
}

std::optional<Extents::Extent> Extents::find(SegmentId segment, std::uint64_t offset) const {
  const auto found = segments_.find(segment);
  if (found == segments_.end()) return std::nullopt;
  auto piece = found->second.pieces.upper_bound(offset);
  if (piece == found->second.pieces.begin()) return std::nullopt;
  --piece;
  if (piece->second.freed != 0 || offset - piece->first >= piece->second.bytes) return std::nullopt;
  return Extent{segment, piece->first, piece->second.bytes};
}

}  // namespace muster::ipc
