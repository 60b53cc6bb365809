#include "store/store.hpp"

#include <algorithm>

#include "base/assert.hpp"
#include "store/leaf_index.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

namespace {

std::string label(ObjectId id) { return "object " + std::to_string(id.value); }

/// What a manifest takes in the daemon beyond what the object's slot stands for.
std::uint64_t metadata_bytes(const Manifest& manifest) {
  constexpr std::uint64_t with_slot = 4096;
  const std::uint64_t bytes = manifest.leaves.size() * (sizeof(ipc::Leaf) + sizeof(const std::byte*)) +
                              manifest.dims.size() * sizeof(std::int64_t) + manifest.structure.size();
  return bytes <= with_slot ? 0 : bytes;
}

bool comes_before(const SegmentPtr& a, const SegmentPtr& b) { return a->id() < b->id(); }

void place_leaf(Object& object, const SegmentPtr& segment, std::uint64_t offset) {
  object.addresses.push_back(segment->data() + offset);
  if (object.segments.empty() || object.segments.back() != segment) object.segments.push_back(segment);
}

const char* never_stored(Code why) {
  switch (why) {
    case Code::out_of_memory: return "it was never stored, as the store was full";
    case Code::quota_exceeded: return "it was never stored, as its process or user had used up a quota";
    case Code::object_lost: return "it was never stored, as the object that it is a part of is gone";
    default: return "it was never stored, as the daemon refused its description";
  }
}

void place_leaf_without_bytes(Object& object) { object.addresses.push_back(nullptr); }

}  // namespace

Result<void> Store::check_new(Payer client, ObjectId id) const {
  if (ipc::maker_of(id) != client.client || !client.client)
    return Error(Code::denied, label(id) + " is not for this client to name");
  if (entries_.contains(id) || tombstones_.find(id)) return Error(Code::invalid, label(id) + " was sealed before");
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
    if (!(*segment)->contains(leaf.offset, leaf.bytes()))
      return Error(Code::invalid, "a leaf of " + std::to_string(leaf.bytes()) + " bytes at offset " +
                                      std::to_string(leaf.offset) + " is outside of segment " +
                                      std::to_string(leaf.segment.value));
    place_leaf(object, *segment, leaf.offset);
  }
  return {};
}

Result<void> Store::bind_to_parent(Object& object) const {
  LeafIndex wholes(object.parent->manifest.leaves);
  for (const auto& leaf : object.manifest.leaves) {
    if (leaf.bytes() == 0) {
      place_leaf_without_bytes(object);
      continue;
    }
    const auto whole = wholes.find(leaf);
    if (!whole)
      return Error(Code::invalid, "a leaf of " + std::to_string(leaf.bytes()) + " bytes at offset " +
                                      std::to_string(leaf.offset) + " of segment " +
                                      std::to_string(leaf.segment.value) + " is not part of " +
                                      label(object.parent->id));
    place_leaf(object, segments_.find(leaf.segment), leaf.offset);
  }
  // The bytes are those of the first whole: keeping only that one makes a part of a part no longer chain.
  if (object.parent->parent) object.parent = object.parent->parent;
  return {};
}

Result<void> Store::charge(Object& object, Payer payer) const {
  auto slot = ledger_.charge(payer, Resource::objects, 1);
  if (!slot) return slot.error();
  object.slot = std::move(*slot);
  if (const auto bytes = metadata_bytes(object.manifest); bytes != 0) {
    auto metadata = ledger_.charge(payer, Resource::memory, bytes);
    if (!metadata) return metadata.error();
    object.metadata = std::move(*metadata);
  }
  return {};
}

ObjectPtr Store::insert(const std::shared_ptr<Watched>& watched) {
  auto& segments = watched->object.segments;
  std::sort(segments.begin(), segments.end(), comes_before);
  segments.erase(std::unique(segments.begin(), segments.end()), segments.end());
  ObjectPtr made(watched, &watched->object);
  entries_[made->id].weak = made;
  // Its end is noted from here on, where it has an entry that ends with it.
  watched->ends = ends_;
  return made;
}

Result<ObjectPtr> Store::seal(Payer client, ObjectId id, Capability capability, ObjectId parent,
                              std::uint64_t copied_bytes, Manifest manifest, TimePoint now) {
  if (auto fresh = check_new(client, id); !fresh) return fresh.error();
  auto made = make(client, id, capability, parent, copied_bytes, std::move(manifest), now);
  // Whoever uses it learns why it isn't there.
  if (!made) tombstones_.add(id, never_stored(made.error().code()));
  return made;
}

Result<ObjectPtr> Store::make(Payer client, ObjectId id, Capability capability, ObjectId parent,
                              std::uint64_t copied_bytes, Manifest manifest, TimePoint now) {
  const auto watched = std::make_shared<Watched>();
  Object& object = watched->object;
  object.id = id;
  object.capability = capability;
  object.user = client.user;
  object.maker = client.client;
  object.made = now;
  object.manifest = std::move(manifest);
  object.manifest.makers = ipc::Makers::one_user;
  if (parent) {
    auto whole = held(parent, client.client);
    if (!whole) return whole.error();
    object.parent = std::move(*whole);
    object.user = object.parent->user;
    object.manifest.makers = object.parent->manifest.makers;
  }
  auto bound = parent ? bind_to_parent(object) : bind_own(object, client);
  if (!bound) return bound.error();
  if (auto charged = charge(object, client); !charged) return charged.error();
  if (!parent) {
    const auto bytes = object.manifest.bytes();
    totals_.bytes_deposited += bytes;
    totals_.bytes_copied += std::min(copied_bytes, bytes);
  }
  auto made = insert(watched);
  hold(made, client.client);
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
  object.addresses.reserve(object.manifest.leaves.size());
  for (const auto& leaf : object.manifest.leaves) {
    if (leaf.bytes() == 0) place_leaf_without_bytes(object);
    else place_leaf(object, segments_.find(leaf.segment), leaf.offset);
  }
  if (auto charged = charge(object, {user, {}}); !charged) return charged.error();
  object.region = std::move(region);
  return insert(watched);
}

Error Store::lost(ObjectId id) const {
  const char* found = tombstones_.find(id);
  const std::string reason = found ? found : "it was freed long ago or never existed";
  return Error(Code::object_lost, label(id) + " is gone: " + reason,
               "keep a Ref to it for as long as it is needed; a pickled ref alone keeps it only for the pickle lease");
}

Result<ObjectPtr> Store::held(ObjectId id, ClientId client) const {
  auto found = entries_.find(id);
  if (found == entries_.end() || found->second.weak.expired()) return lost(id);
  const auto& holders = found->second.holders;
  const bool holds =
      std::any_of(holders.begin(), holders.end(), [&](const Holder& holder) { return holder.client == client; });
  if (!holds) return Error(Code::denied, label(id) + " is not held by this client");
  return found->second.strong;
}

bool Store::holds_in(ClientId client, SegmentId segment) const {
  auto found = holds_.find(client);
  if (found == holds_.end()) return false;
  return std::any_of(found->second.begin(), found->second.end(), [&](const auto& hold) {
    const auto& segments = entries_.at(hold.first).strong->segments;
    const auto place = std::lower_bound(segments.begin(), segments.end(), segment,
                                        [](const SegmentPtr& each, SegmentId id) { return each->id() < id; });
    return place != segments.end() && (*place)->id() == segment;
  });
}

Result<ObjectPtr> Store::lookup(ObjectId id, Capability capability, Payer client) {
  auto found = entries_.find(id);
  auto object = found == entries_.end() ? nullptr : found->second.weak.lock();
  if (!object) return lost(id);
  if (object->capability != capability)
    return Error(Code::denied, label(id) + " needs another capability than the ref shows",
                 "use the ref as it was pickled");
  if (object->user != client.user)
    return Error(Code::denied, label(id) + " belongs to user " + std::to_string(object->user));
  hold(object, client.client);
  return object;
}

Store::Entry& Store::entry_of(const ObjectPtr& object) {
  auto found = entries_.find(object->id);
  MUSTER_ASSERT(found != entries_.end(), "an object that is alive has an entry");
  return found->second;
}

void Store::hold(const ObjectPtr& object, ClientId client) {
  auto& entry = entry_of(object);
  auto& holders = entry.holders;
  auto holder =
      std::find_if(holders.begin(), holders.end(), [&](const Holder& existing) { return existing.client == client; });
  const bool is_new = holder == holders.end();
  // What may find no memory comes first: the two indexes must agree.
  if (is_new && holders.size() == holders.capacity()) holders.reserve(2 * holders.size());
  ++holds_[client][object->id];
  entry.strong = object;
  if (is_new) holders.push_back({client, 1});
  else ++holder->holds;
}

void Store::let_go(Entry& entry, const char* reason) {
  if (!entry.holders.empty() || entry.pinned_until != TimePoint{}) return;
  entry.end_reason = reason;
  entry.strong.reset();
}

void Store::drop_hold(Entry& entry, ObjectId id, ClientId client, const char* reason) {
  auto holder = std::find_if(entry.holders.begin(), entry.holders.end(),
                             [&](const Holder& existing) { return existing.client == client; });
  MUSTER_ASSERT(holder != entry.holders.end(), "the two indexes of holds agree");
  if (--holder->holds == 0) entry.holders.erase(holder);
  auto& of_client = holds_.at(client);
  if (auto found = of_client.find(id); --found->second == 0) of_client.erase(found);
  let_go(entry, reason);
}

Result<void> Store::release(ObjectId id, ClientId client) {
  auto of_client = holds_.find(client);
  if (of_client == holds_.end() || !of_client->second.contains(id))
    return Error(Code::invalid, label(id) + " released without a hold");
  drop_hold(entries_.at(id), id, client, "freed: every hold of it was given up");
  return {};
}

Result<void> Store::pin(ObjectId id, ClientId client, TimePoint now) {
  auto object = held(id, client);
  if (!object) return object.error();
  auto& entry = entry_of(*object);
  pins_.erase({entry.pinned_until, id});
  entry.pinned_until = now + limits_.pickle_lease;
  pins_.emplace(entry.pinned_until, id);
  return {};
}

void Store::inherit(ClientId client, ClientId heir) {
  auto found = holds_.find(client);
  if (found == holds_.end()) return;
  std::vector<ObjectId> ids;
  for (const auto& [id, count] : found->second) ids.push_back(id);
  for (const auto id : ids) {
    const ObjectPtr object = entries_.at(id).strong;
    hold(object, heir);
  }
}

void Store::drop_client(ClientId client) {
  auto found = holds_.find(client);
  if (found == holds_.end()) return;
  auto& dropping = dropping_.emplace_back(Dropping{client, std::move(found->second), {}});
  dropping.next = dropping.holds.cbegin();
  holds_.erase(found);
  drop_more();
}

void Store::drop_more() {
  constexpr int holds_max = 512;  // about a tenth of a millisecond
  if (dropping_.empty()) return;
  auto& [client, holds, next] = dropping_.front();
  for (int count = 0; count < holds_max && next != holds.cend(); ++count, ++next) {
    const ObjectId id = next->first;
    auto& entry = entries_.at(id);
    const auto is_its = [gone = client](const Holder& holder) { return holder.client == gone; };
    entry.holders.erase(std::remove_if(entry.holders.begin(), entry.holders.end(), is_its), entry.holders.end());
    let_go(entry, ipc::maker_of(id) == client ? "its owner died" : "freed: its last holder died");
  }
  if (next == holds.cend()) dropping_.pop_front();
}

void Store::expire(TimePoint now) {
  while (!pins_.empty() && pins_.begin()->first <= now) {
    const ObjectId id = pins_.begin()->second;
    pins_.erase(pins_.begin());
    auto& entry = entries_.at(id);
    entry.pinned_until = {};
    let_go(entry, "expired: its pickled ref was not used within the pickle lease");
  }
}

std::optional<TimePoint> Store::next_deadline() const {
  if (pins_.empty()) return std::nullopt;
  return pins_.begin()->first;
}

std::span<const Store::Gone> Store::take_gone() {
  if (ends_->noted().empty()) return {};
  gone_.clear();
  gone_.swap(ends_->noted());
  for (const auto& gone : gone_) {
    auto entry = entries_.find(gone.id);
    tombstones_.add(gone.id, entry->second.end_reason);
    entries_.erase(entry);
  }
  return gone_;
}

std::size_t Store::size() const { return entries_.size() - ends_->noted().size(); }

std::vector<Store::Listed> Store::list(std::size_t limit, TimePoint now) const {
  std::vector<Listed> listed;
  for (const auto& [id, entry] : entries_) {
    if (listed.size() >= limit) break;
    auto object = entry.weak.lock();
    if (!object) continue;
    // Beside the entry's own and this one, every pointer is an op's or a part's.
    const long own = entry.strong ? 2 : 1;
    Listed row{object, entry.holders, 0, {}};
    row.in_ops = entry.weak.use_count() - own - 1;
    if (entry.pinned_until > now) row.pinned = entry.pinned_until - now;
    listed.push_back(std::move(row));
  }
  std::sort(listed.begin(), listed.end(), [](const auto& a, const auto& b) { return a.object->made < b.object->made; });
  return listed;
}

std::uint64_t Store::pinned_bytes(const Object& object) const {
  if (object.parent) return 0;
  std::uint64_t bytes = 0;
  for (const auto& segment : object.segments) {
    if (segments_.users_of(segment) == 1) {
      bytes += segment->bytes();
      continue;
    }
    for (const auto& leaf : object.manifest.leaves)
      if (leaf.segment == segment->id()) bytes += leaf.bytes();
  }
  return bytes;
}

std::uint64_t Store::held_by(ClientId client) const {
  auto found = holds_.find(client);
  return found == holds_.end() ? 0 : found->second.size();
}

}  // namespace musterd
