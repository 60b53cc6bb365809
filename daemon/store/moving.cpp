// How an object leaves a segment in which little else lies, and how a client that knows its earlier place still finds
// it.
#include "store/moving.hpp"

#include <algorithm>
#include <utility>

#include <muster/ipc/region_allocator.hpp>

#include "store/store.hpp"

namespace musterd {

namespace ipc = muster::ipc;

namespace {

/// How much memory it takes to remember so many moved leaves.
std::uint64_t bytes_of(std::size_t leaves) {
  return sizeof(MovedLeaves) + leaves * (sizeof(ipc::Leaf) + sizeof(std::uint32_t)) + 3 * block_bytes;
}

}  // namespace

std::span<const ipc::Leaf> EarlierPlaces::leaves_before(const Object& whole) {
  return whole.moved ? std::span<const ipc::Leaf>(whole.moved->before) : std::span<const ipc::Leaf>();
}

ipc::Leaf EarlierPlaces::now(const ipc::Leaf& leaf) {
  const auto found = before_.find(leaf);
  if (!found) return leaf;
  const auto& moved = *whole_.moved;
  const auto& whole = whole_.manifest.leaves[moved.leaves[*found]];
  ipc::Leaf now = leaf;
  now.segment = whole.segment;
  now.offset = whole.offset + (leaf.offset - moved.before[*found].offset);
  return now;
}

void each_once(Segments& segments) {
  std::sort(segments.begin(), segments.end(), [](const auto& a, const auto& b) { return a->id() < b->id(); });
  segments.erase(std::unique(segments.begin(), segments.end()), segments.end());
}

void count_where_it_lies(Object& object) {
  object.residents.clear();
  const auto& segments = object.segments;
  const auto is_clients = [](const SegmentPtr& segment) { return bool(segment->owner().client); };
  if (object.parent || std::none_of(segments.begin(), segments.end(), is_clients)) return;
  const auto comes_before = [](const SegmentPtr& segment, SegmentId id) { return segment->id() < id; };
  ipc::SmallVector<std::uint64_t, 1> bytes(segments.size());
  for (const auto& leaf : object.manifest.leaves) {
    if (leaf.bytes() == 0) continue;
    const auto place = std::lower_bound(segments.begin(), segments.end(), leaf.segment, comes_before);
    bytes[static_cast<std::size_t>(place - segments.begin())] += leaf.bytes();
  }
  object.residents.reserve(segments.size());
  for (std::size_t i = 0; i < segments.size(); ++i)
    if (is_clients(segments[i])) object.residents.emplace_back(*segments[i], object.id, bytes[i]);
}

Object* Store::at_rest(ObjectId id) const {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return nullptr;
  const StoreEntry& entry = *found->second;
  const ObjectPtr object = entry.weak.lock();
  if (!object) return nullptr;
  // Outcomes in histories name the object, and not its place.
  const long known = 1 + (entry.strong ? 1 : 0) + static_cast<long>(entry.holders.outcomes);
  if (object.use_count() != known || holds_.fix_place(entry)) return nullptr;
  return std::const_pointer_cast<Object>(object).get();
}

std::optional<Move> Store::begin_move(ObjectId id, const SegmentPtr& from) const {
  const Object* object = at_rest(id);
  if (!object) return std::nullopt;
  Move move{id, object->entry->weak, from, {}, 0, {}};
  const auto& leaves = object->manifest.leaves;
  for (std::uint32_t i = 0; i < leaves.size(); ++i) {
    if (leaves[i].segment != from->id() || leaves[i].bytes() == 0) continue;
    move.pieces.push_back({i, object->place(i), leaves[i].bytes(), move.bytes});
    constexpr auto alignment = ipc::RegionAllocator::alignment_bytes;
    move.bytes += (leaves[i].bytes() + alignment - 1) / alignment * alignment;
  }
  return move;
}

std::size_t Store::looks_of_move(ObjectId id) const {
  const auto object = alive(id);
  return object ? object->manifest.leaves.size() + object->entry->holders.holds.size() : 0;
}

bool Store::finish_move(Move move) {
  Object* object = at_rest(move.object);
  if (!object || move.what.lock().get() != object) return false;
  // What may be refused, or throw for lack of memory, comes first. Nothing fails after it.
  if (!object->moved) object->moved = std::make_unique<MovedLeaves>();
  MovedLeaves& moved = *object->moved;
  const std::size_t count = moved.before.size() + move.pieces.size();
  const auto bytes = bytes_of(count);
  auto charge =
      ledger_.charge({object->user, {}}, bytes > metadata_in_heap_max ? Resource::memory : Resource::heap, bytes);
  if (!charge) return false;
  moved.before.reserve(count);
  moved.leaves.reserve(count);
  moved.regions.reserve(moved.regions.size() + 1);
  Segments segments = object->segments;
  std::replace(segments.begin(), segments.end(), move.from, segments_.find(move.to.segment()));
  each_once(segments);

  for (const auto& piece : move.pieces) {
    auto& leaf = object->manifest.leaves[piece.leaf];
    moved.before.push_back(leaf);
    moved.leaves.push_back(piece.leaf);
    leaf.segment = move.to.segment();
    leaf.offset = move.to.offset() + piece.offset;
    object->memories[piece.leaf] = move.to.place().memory;
  }
  moved.regions.push_back(std::move(move.to));
  moved.charge = std::move(*charge);
  object->segments.swap(segments);
  count_where_it_lies(*object);
  return true;
}

}  // namespace musterd
