// How an object comes to be: of a client's regions, of a part of another object, or of a finished result.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>

#include "store/leaf_index.hpp"
#include "store/moving.hpp"
#include "store/store.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

namespace {

/// About how many bytes an object's description takes.
std::uint64_t metadata_bytes(const Object& object) {
  const Manifest& manifest = object.manifest;
  return manifest.leaves.size() * (sizeof(ipc::Leaf) + sizeof(void*)) + manifest.dims.size() * sizeof(std::int64_t) +
         manifest.structure.size() + manifest.guise.size() +
         object.segments.size() * (sizeof(SegmentPtr) + sizeof(Resident));
}
void place_leaf(Object& object, const SegmentPtr& segment) {
  object.memories.push_back(segment->memory().get());
  object.in_place |= segment->is_in_place();
  if (object.segments.empty() || object.segments.back() != segment) object.segments.push_back(segment);
}

const char* never_stored(Code why) {
  switch (why) {
    case Code::out_of_memory: return "it was never stored, as the store was full";
    case Code::quota_exceeded:
      return "it was never stored, as its process or user had as many objects as it may (--objects-max), or as much in "
             "the daemon's own memory";
    case Code::object_lost: return "it was never stored, as the object that it is a part of is gone";
    default: return "it was never stored, as the daemon refused its description";
  }
}

Result<void> check_device(const ipc::Leaf& leaf, const Segment& segment) {
  if (leaf.device == segment.device()) return {};
  return Error(Code::invalid, fmt::format("a leaf is said to be on {}, and its segment {} is on {}", name(leaf.device),
                                          leaf.segment.value, name(segment.device())));
}

void place_leaf_without_bytes(Object& object) { object.memories.push_back(nullptr); }

}  // namespace

Result<void> Store::check_new(Payer client, ObjectId id) const {
  if (ipc::maker_of(id) != client.client || !client.client)
    return Error(Code::denied, label_of(id) + " is not for this client to name");
  if (entries_.contains(id) || tombstones_.find(id)) return Error(Code::invalid, label_of(id) + " was sealed before");
  return {};
}

Result<void> Store::bind_own(Object& object, Payer client) const {
  for (const auto& leaf : object.manifest.leaves) {
    if (leaf.bytes() == 0) {
      place_leaf_without_bytes(object);
      continue;
    }
    auto segment = segments_.owned(leaf.segment, client.client);
    if (!segment) return segment.error();
    if (auto there = check_device(leaf, **segment); !there) return there;
    if (!(*segment)->contains(leaf.offset, leaf.bytes()))
      return Error(Code::invalid, fmt::format("a leaf of {} bytes at offset {} is outside of segment {}", leaf.bytes(),
                                              leaf.offset, leaf.segment.value));
    place_leaf(object, *segment);
  }
  return {};
}

Result<void> Store::bind_to_parent(Object& object) const {
  LeafIndex wholes(object.parent->manifest.leaves);
  EarlierPlaces earlier(object.parent->parent ? *object.parent->parent : *object.parent);
  for (auto& leaf : object.manifest.leaves) {
    if (leaf.bytes() == 0) {
      place_leaf_without_bytes(object);
      continue;
    }
    if (!wholes.find(leaf)) leaf = earlier.now(leaf);
    if (!wholes.find(leaf))
      return Error(Code::invalid,
                   fmt::format("a leaf of {} bytes at offset {} of segment {} is not part of {}", leaf.bytes(),
                               leaf.offset, leaf.segment.value, label_of(object.parent->id)));
    const auto segment = segments_.find(leaf.segment);
    if (auto there = check_device(leaf, *segment); !there) return there;
    place_leaf(object, segment);
  }
  // A part of a part keeps the first whole only, which has the bytes. So parts make no chains.
  if (object.parent->parent) object.parent = object.parent->parent;
  return {};
}

Result<void> Store::charge(Object& object, Payer payer) const {
  constexpr std::uint64_t each = sizeof(Watched) + sizeof(StoreEntry) + 2 * block_bytes +
                                 in_table(sizeof(ObjectId) + sizeof(std::unique_ptr<StoreEntry>));
  const std::uint64_t bytes = metadata_bytes(object);
  const bool is_large = bytes > metadata_in_heap_max;
  auto slot = ledger_.charge(payer, Resource::objects, 1, each + (is_large ? 0 : bytes));
  if (!slot) return slot.error();
  object.slot = std::move(*slot);
  if (is_large) {
    auto metadata = ledger_.charge(payer, Resource::memory, bytes);
    if (!metadata) return metadata.error();
    object.metadata = std::move(*metadata);
  }
  return {};
}

ObjectPtr Store::insert(const std::shared_ptr<Watched>& watched) {
  each_once(watched->object.segments);
  count_where_it_lies(watched->object);
  ObjectPtr made(watched, &watched->object);
  auto entry = std::make_unique<StoreEntry>();
  entry->id = made->id;
  entry->maker = made->maker;
  entry->user = made->user;
  entry->weak = made;
  watched->object.entry = entry.get();
  by_user_[made->user].push_back(*entry);
  entries_.emplace(made->id, std::move(entry));
  // The object's end is noted from here on, as its entry is in the tables.
  watched->ends = ends_;
  return made;
}

Result<ObjectPtr> Store::seal(Payer client, ObjectId id, Capability capability, ObjectId parent,
                              std::uint64_t copied_bytes, Manifest manifest, TimePoint now) {
  if (auto fresh = check_new(client, id); !fresh) return fresh.error();
  auto made = make(client, id, capability, parent, copied_bytes, std::move(manifest), now);
  // Whoever asks for the object later learns why it isn't there.
  if (!made) tombstones_.add(id, {never_stored(made.error().code()), client.user});
  return made;
}

Result<ObjectPtr> Store::make(Payer client, ObjectId id, Capability capability, ObjectId parent,
                              std::uint64_t copied_bytes, Manifest manifest, TimePoint now) {
  if (manifest.leaves.size() > ipc::object_leaves_max) return ipc::too_many_leaves(manifest.leaves.size());
  if (const auto bytes = ipc::encoded_bytes(manifest); bytes > ipc::description_bytes_max)
    return Error(Code::invalid,
                 fmt::format("{} would have a description of {}", label_of(id),
                             ipc::over_text(bytes, ipc::description_bytes_max)),
                 "use fewer arrays and dimensions, and shorter names and constants in its containers");
  const auto watched = std::make_shared<Watched>();
  Object& object = watched->object;
  object.id = id;
  object.capability = capability;
  object.user = client.user;
  object.maker = client.client;
  object.made = now;
  object.manifest = std::move(manifest);
  object.bytes = object.manifest.bytes();
  // Who says that others made it is believed; who says that nobody else did is not.
  if (parent) {
    auto whole = held(parent, client);
    if (!whole) return whole.error();
    object.parent = std::move(*whole);
    object.user = object.parent->user;
    object.manifest.makers = object.parent->manifest.makers;
  }
  auto bound = parent ? bind_to_parent(object) : bind_own(object, client);
  if (!bound) return bound.error();
  auto family = holds_.room_for_one(client);
  if (!family) return family.error();
  if (auto charged = charge(object, client); !charged) return charged.error();
  if (!parent) {
    totals_.bytes_deposited += object.bytes;
    totals_.bytes_copied += std::min(copied_bytes, object.bytes);
  }
  auto made = insert(watched);
  holds_.add(made, **family);
  return made;
}

Result<ObjectPtr> Store::add_result(UserId user, Capability capability, Manifest&& manifest, ResultRegion&& region,
                                    TimePoint now) {
  const auto watched = std::make_shared<Watched>();
  Object& object = watched->object;
  do object.id = ipc::make_object_id({}, ++last_result_);
  while (!object.id || entries_.contains(object.id));
  object.capability = capability;
  object.user = user;
  object.made = now;
  object.manifest = std::move(manifest);
  object.bytes = object.manifest.bytes();
  object.memories.reserve(object.manifest.leaves.size());
  for (const auto& leaf : object.manifest.leaves) {
    if (leaf.bytes() == 0) place_leaf_without_bytes(object);
    else place_leaf(object, segments_.find(leaf.segment));
  }
  if (auto charged = charge(object, {user, {}}); !charged) return charged.error();
  object.region = std::move(region);
  return insert(watched);
}

}  // namespace musterd
