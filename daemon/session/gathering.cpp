// A few objects in segments that are much larger than these, into which nobody writes any more: the client is dead or
// has handed them over. They are copied out of there, and the segments end.
#include <algorithm>
#include <cstring>
#include <utility>

#include "session/node.hpp"

namespace musterd {

namespace {

/// After a change: more objects may end in the same moment.
constexpr Duration first_pause = std::chrono::milliseconds(100);
/// While nothing can be moved.
constexpr Duration longest_pause = std::chrono::seconds(3);
/// Between two turns that move something.
constexpr Duration breath = std::chrono::milliseconds(1);

/// What one turn looks at and copies at most.
constexpr std::size_t objects_max = 256;
constexpr std::size_t pieces_max = 4096;
constexpr std::size_t leaves_max = 4096;
constexpr std::uint64_t copied_bytes_max = 8 << 20;

}  // namespace

void Node::notice_sparse() {
  if (std::exchange(seen_sparse_changes_, segments_.sparse_changes()) == segments_.sparse_changes()) return;
  gather_pause_ = first_pause;
  const TimePoint soon = now_ + first_pause;
  gather_at_ = gather_at_ ? std::min(*gather_at_, soon) : soon;
}

void Node::gather(TimePoint now) try {
  gather_at_.reset();
  if (!moving_.empty() || stopping_ || !segments_.has_sparse()) return;
  // While a dead client's holds are being dropped, most of what lies there is about to end.
  if (!store_.drops()) moving_ = moves_of_one_turn();
  if (!moving_.empty()) return copy(moving_);
  gather_at_ = now + gather_pause_;
  gather_pause_ = std::min(2 * gather_pause_, longest_pause);
} catch (const std::bad_alloc&) {
  moving_.clear();
  gather_at_ = now + longest_pause;
}

/// What finds no room, or is in use, stays, and is looked at again later.
std::vector<Move> Node::moves_of_one_turn() {
  std::vector<Move> moves;
  std::size_t objects = 0;
  std::size_t pieces = 0;
  std::size_t leaves = 0;
  std::uint64_t bytes = 0;
  SegmentPtr first;
  for (auto segment = segments_.next_sparse(); segment != first && objects < objects_max;
       segment = segments_.next_sparse()) {
    if (!first) first = segment;
    ++objects;  // one without any takes time, too
    for (const auto id : segment->next_residents(objects_max - objects)) {
      ++objects;
      const std::size_t more = store_.looks_of_move(id);
      if (more > leaves_max - leaves) continue;
      leaves += more;
      auto move = store_.begin_move(id, segment);
      if (!move || move->bytes > copied_bytes_max - bytes || move->pieces.size() > pieces_max - pieces) continue;
      auto region = results_.allocate(segment->owner().user, move->bytes);
      if (!region) break;  // its user has no room for it, and others may
      move->to = std::move(*region);
      pieces += move->pieces.size();
      bytes += move->bytes;
      moves.push_back(std::move(*move));
    }
  }
  return moves;
}

void Node::copy(const std::vector<Move>& moves) {
  struct Copy {
    const std::byte* from;
    std::byte* to;
    std::uint64_t bytes;
  };
  std::vector<Copy> copies;
  std::vector<MappingPtr> mappings;  // the daemon may end meanwhile
  for (const auto& move : moves) {
    mappings.push_back(move.from->mapping());
    mappings.push_back(segments_.find(move.to.segment())->mapping());
    for (const auto& piece : move.pieces) copies.push_back({piece.address, move.to.data() + piece.offset, piece.bytes});
  }
  outside_.run_blocking(
      ClientId{},
      [copies = std::move(copies), mappings = std::move(mappings)] {
        for (const auto& copy : copies) std::memcpy(copy.to, copy.from, copy.bytes);
      },
      [this] { finish_moves(); });
}

void Node::finish_moves() {
  event({}, now_, [&] {
    bool moved = false;
    // Those that find no memory stay where they are.
    clients_.guarded([&] {
      for (auto& move : moving_) moved |= store_.finish_move(std::move(move));
    });
    moving_.clear();
    gather_at_ = now_ + (moved ? breath : gather_pause_);
    if (!moved) gather_pause_ = std::min(2 * gather_pause_, longest_pause);
  });
}

}  // namespace musterd
