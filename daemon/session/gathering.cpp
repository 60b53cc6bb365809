#include "session/gathering.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace musterd {

namespace {

/// The pause after a change, as more objects may end in the same moment.
constexpr Duration first_pause = std::chrono::milliseconds(100);
/// The longest pause while nothing can be moved.
constexpr Duration longest_pause = std::chrono::seconds(3);
/// The pause between two turns that move something.
constexpr Duration breath = std::chrono::milliseconds(1);

/// What one turn may look at and copy.
constexpr std::size_t objects_max = 256;
constexpr std::size_t pieces_max = 4096;
constexpr std::size_t leaves_max = 4096;
constexpr std::uint64_t copied_bytes_max = 8 << 20;

}  // namespace

void Gathering::notice(TimePoint now) {
  if (std::exchange(seen_sparse_changes_, parts_.segments.sparse_changes()) == parts_.segments.sparse_changes()) return;
  pause_ = first_pause;
  const TimePoint soon = now + first_pause;
  at_ = at_ ? std::min(*at_, soon) : soon;
}

void Gathering::begin(TimePoint now, const Run& run) try {
  if (!at_ || *at_ > now) return;
  at_.reset();
  if (!moving_.empty() || stopped_ || !parts_.segments.has_sparse()) return;
  // While a dead client's holds are being dropped, most objects in its segments are about to end.
  if (!parts_.store.holds().drops()) moving_ = moves_of_one_turn();
  if (!moving_.empty()) return run(copy_of(moving_));
  at_ = now + pause_;
  pause_ = std::min(2 * pause_, longest_pause);
} catch (const std::bad_alloc&) {
  moving_.clear();
  at_ = now + longest_pause;
}

/// Chooses objects to move. An object that finds no room, or is in use, stays and is looked at again later.
std::vector<Move> Gathering::moves_of_one_turn() {
  std::vector<Move> moves;
  std::size_t objects = 0;
  std::size_t pieces = 0;
  std::size_t leaves = 0;
  std::uint64_t bytes = 0;
  SegmentPtr first;
  for (auto segment = parts_.segments.next_sparse(); segment != first && objects < objects_max;
       segment = parts_.segments.next_sparse()) {
    if (!first) first = segment;
    ++objects;  // a segment without objects takes time, too
    for (const auto id : segment->next_residents(objects_max - objects)) {
      ++objects;
      const std::size_t more = parts_.store.looks_of_move(id);
      if (more > leaves_max - leaves) continue;
      leaves += more;
      auto move = parts_.store.begin_move(id, segment);
      if (!move || move->bytes > copied_bytes_max - bytes || move->pieces.size() > pieces_max - pieces) continue;
      auto region = parts_.results.allocate(segment->owner().user, move->bytes);
      if (!region) break;  // the segment's user has no room, but other users may
      move->to = std::move(*region);
      pieces += move->pieces.size();
      bytes += move->bytes;
      moves.push_back(std::move(*move));
    }
  }
  return moves;
}

std::function<void()> Gathering::copy_of(const std::vector<Move>& moves) const {
  struct Copy {
    Place from;
    Place to;
    std::uint64_t bytes;
  };
  std::vector<Copy> copies;
  std::vector<SegmentMemoryPtr> kept;  // keeps the memory if the daemon ends meanwhile
  for (const auto& move : moves) {
    kept.push_back(move.from->memory());
    kept.push_back(parts_.segments.find(move.to.segment())->memory());
    for (const auto& piece : move.pieces) copies.push_back({piece.place, move.to.place() + piece.offset, piece.bytes});
  }
  return [copies = std::move(copies), kept = std::move(kept)] {
    for (const auto& copy : copies) std::memcpy(host_address(copy.to), host_address(copy.from), copy.bytes);
  };
}

void Gathering::finish(TimePoint now) {
  bool moved = false;
  // Objects that find no memory stay where they are.
  parts_.clients.guarded([&] {
    for (auto& move : moving_) moved |= parts_.store.finish_move(std::move(move));
  });
  moving_.clear();
  at_ = now + (moved ? breath : pause_);
  if (!moved) pause_ = std::min(2 * pause_, longest_pause);
}

}  // namespace musterd
