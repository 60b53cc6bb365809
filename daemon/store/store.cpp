#include "store/store.hpp"

#include <algorithm>
#include <limits>

#include "base/assert.hpp"
#include "store/leaf_index.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

namespace {

std::string label(ObjectId id) { return "object " + std::to_string(id.value); }

/// What an object's description takes, about.
std::uint64_t metadata_bytes(const Object& object) {
  const Manifest& manifest = object.manifest;
  return manifest.leaves.size() * (sizeof(ipc::Leaf) + sizeof(const std::byte*)) +
         manifest.dims.size() * sizeof(std::int64_t) + manifest.structure.size() +
         object.segments.size() * sizeof(SegmentPtr);
}
/// A larger one is charged as memory, of which there is more.
constexpr std::uint64_t metadata_in_heap_max = 4096;

/// What malloc adds to a block, and what a growing table has free or copies, per element of `bytes`.
constexpr std::uint64_t block_bytes = 32;
constexpr std::uint64_t in_table(std::uint64_t bytes) { return 3 * (bytes + 1); }

/// Later than any.
constexpr std::uint64_t no_fork = std::numeric_limits<std::uint64_t>::max();

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
  constexpr std::uint64_t each =
      sizeof(Watched) + sizeof(Entry) + 2 * block_bytes + in_table(sizeof(ObjectId) + sizeof(std::unique_ptr<Entry>));
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
  auto& segments = watched->object.segments;
  std::sort(segments.begin(), segments.end(), comes_before);
  segments.erase(std::unique(segments.begin(), segments.end()), segments.end());
  ObjectPtr made(watched, &watched->object);
  auto entry = std::make_unique<Entry>();
  entry->weak = made;
  watched->object.entry = entry.get();
  entries_.emplace(made->id, std::move(entry));
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
  Family& family = family_of(client);
  if (auto room = make_room(family, 1); !room) return room.error();
  if (auto charged = charge(object, client); !charged) return charged.error();
  if (!parent) {
    const auto bytes = object.manifest.bytes();
    totals_.bytes_deposited += bytes;
    totals_.bytes_copied += std::min(copied_bytes, bytes);
  }
  auto made = insert(watched);
  add_hold(family, made);
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
  if (found == entries_.end() || found->second->weak.expired()) return lost(id);
  const auto& holders = found->second->holders;
  const bool holds =
      std::any_of(holders.begin(), holders.end(), [&](const Holder& holder) { return holder.client == client; });
  if (!holds) return Error(Code::denied, label(id) + " is not held by this client");
  return found->second->strong;
}

bool Store::holds_in(ClientId client, SegmentId segment) const {
  auto found = families_.find(client);
  if (found == families_.end()) return false;
  const auto& own = found->second->own;
  return std::any_of(own.begin(), own.end(), [&](const auto& hold) {
    const auto& segments = entries_.at(hold.first)->strong->segments;
    const auto place = std::lower_bound(segments.begin(), segments.end(), segment,
                                        [](const SegmentPtr& each, SegmentId id) { return each->id() < id; });
    return place != segments.end() && (*place)->id() == segment;
  });
}

Result<ObjectPtr> Store::lookup(ObjectId id, Capability capability, Payer client) {
  auto found = entries_.find(id);
  auto object = found == entries_.end() ? nullptr : found->second->weak.lock();
  if (!object) return lost(id);
  if (object->capability != capability)
    return Error(Code::denied, label(id) + " needs another capability than the ref shows",
                 "use the ref as it was pickled");
  if (object->user != client.user)
    return Error(Code::denied, label(id) + " belongs to user " + std::to_string(object->user));
  if (auto held = hold(object, client); !held) return held.error();
  return object;
}

Store::Family& Store::family_of(Payer client) {
  auto& family = families_[client.client];
  if (!family) {
    family = std::make_shared<Family>();
    family->payer = client;
  }
  return *family;
}

/// Charges for many holds at once, so that the usual hold costs nothing here.
Result<void> Store::make_room(Family& family, std::size_t more) const {
  constexpr std::size_t step = 32;
  const std::size_t wanted = family.held + family.reserved + more;
  if (wanted <= family.room) return {};
  return charge_for(family, (wanted + step - 1) / step * step);
}

/// Tables keep what they once had; one that has become far too large begins anew.
void Store::shrink(Family& family) const {
  constexpr std::size_t small = 4096;
  const std::size_t wanted = family.held + family.reserved;
  if (family.room <= small || wanted > family.room / 8) return;
  family.own.rehash(0);
  MUSTER_ASSERT(charge_for(family, std::max(small, 2 * wanted)), "to give something back is never refused");
}

Result<void> Store::charge_for(Family& family, std::size_t room) const {
  constexpr std::uint64_t each = in_table(sizeof(Holds::value_type)) + 2 * sizeof(Holder);
  if (auto charged = ledger_.resize(family.charge, family.payer, room * each); !charged) return charged.error();
  family.room = room;
  return {};
}

Result<void> Store::hold(const ObjectPtr& object, Payer client) {
  Family& family = family_of(client);
  if (auto room = make_room(family, 1); !room) return room.error();
  add_hold(family, object);
  return {};
}

Result<void> Store::reserve(Payer client, std::size_t more) {
  Family& family = family_of(client);
  if (auto room = make_room(family, more); !room) return room.error();
  if (family.reserved == 0 && more > 0) reserved_.push_back(&family);
  family.reserved += more;
  return {};
}

void Store::hold_reserved(const ObjectPtr& object, ClientId client) {
  Family& family = *families_.at(client);
  MUSTER_ASSERT(family.reserved > 0, "room was made before anybody was given anything");
  --family.reserved;
  add_hold(family, object);
}

void Store::end_reservations() {
  for (Family* family : reserved_) family->reserved = 0;
  reserved_.clear();
}

void Store::add_hold(Family& family, const ObjectPtr& object) {
  const ClientId client = family.payer.client;
  auto& entry = *object->entry;
  auto& holders = entry.holders;
  auto holder =
      std::find_if(holders.begin(), holders.end(), [&](const Holder& existing) { return existing.client == client; });
  const bool is_new = holder == holders.end();
  // What may find no memory comes first: the two indexes must agree.
  if (is_new && holders.size() == holders.capacity()) holders.reserve(2 * holders.size());
  ++family.own.try_emplace(object->id, Hold{0, family.forks}).first->second.count;
  entry.strong = object;
  if (is_new) holders.push_back({client, 1});
  else ++holder->holds;
  if (is_new) ++family.held;
}

void Store::let_go(Entry& entry, const char* reason) {
  if (!entry.holders.empty() || entry.pinned_until != TimePoint{}) return;
  entry.end_reason = reason;
  entry.strong.reset();
}

/// What the client held goes to the last of its family who forked before fork `before`, and after the hold began.
void Store::end_hold(Family& family, ClientId client, ObjectId id, Hold hold, std::uint64_t before,
                     const char* reason) {
  auto& entry = *entries_.at(id);
  const auto of = [&](ClientId wanted) {
    return std::find_if(entry.holders.begin(), entry.holders.end(),
                        [&](const Holder& existing) { return existing.client == wanted; });
  };
  const auto heir =
      std::find_if(family.heirs.rbegin(), family.heirs.rend(), [&](const Heir& each) { return each.fork < before; });
  if (heir != family.heirs.rend() && heir->fork > hold.since) {
    const auto [kept, is_new] = heir->kept.try_emplace(id, Hold{1, hold.since});
    kept->second.since = std::min(kept->second.since, hold.since);
    if (is_new) {
      *of(client) = {heir->id, 1};
      return;
    }
  }
  const auto holder = of(client);
  MUSTER_ASSERT(holder != entry.holders.end(), "the two indexes of holds agree");
  entry.holders.erase(holder);
  --family.held;
  let_go(entry, reason);
}

Result<void> Store::release(ObjectId id, ClientId client) {
  const auto missing = [&] { return Error(Code::invalid, label(id) + " released without a hold"); };
  const auto found = families_.find(client);
  if (found == families_.end()) return missing();
  Family& family = *found->second;
  const auto held = family.own.find(id);
  if (held == family.own.end()) return missing();
  if (held->second.count > 1) {
    --held->second.count;
    auto& holders = entries_.at(id)->holders;
    --std::find_if(holders.begin(), holders.end(), [&](const Holder& each) { return each.client == client; })->holds;
    return {};
  }
  end_hold(family, client, id, held->second, no_fork, "freed: every hold of it was given up");
  family.own.erase(held);
  shrink(family);
  return {};
}

Result<void> Store::pin(ObjectId id, ClientId client, TimePoint now) {
  auto object = held(id, client);
  if (!object) return object.error();
  auto& entry = *(*object)->entry;
  pins_.erase({entry.pinned_until, id});
  entry.pinned_until = now + limits_.pickle_lease;
  pins_.emplace(entry.pinned_until, id);
  return {};
}

void Store::inherit(ClientId client, ClientId heir) {
  auto found = families_.find(client);
  if (found == families_.end() || found->second->own.empty()) return;
  const FamilyPtr family = found->second;
  family->heirs.reserve(family->heirs.size() + 1);
  families_.emplace(heir, family);
  family->heirs.push_back({heir, ++family->forks, {}});
}

void Store::drop_client(ClientId client) {
  auto found = families_.find(client);
  if (found == families_.end()) return;
  const FamilyPtr family = found->second;
  families_.erase(found);
  auto& dropping = dropping_.emplace_back(Dropping{family, client, no_fork, {}, {}});
  if (client == family->payer.client) {
    dropping.holds = std::move(family->own);
  } else {
    const auto heir =
        std::find_if(family->heirs.begin(), family->heirs.end(), [&](const Heir& each) { return each.id == client; });
    dropping.before = heir->fork;
    dropping.holds = std::move(heir->kept);
    family->heirs.erase(heir);
  }
  dropping.next = dropping.holds.cbegin();
  drop_more();
}

void Store::drop_more() {
  constexpr int holds_max = 512;  // about a tenth of a millisecond
  if (dropping_.empty()) return;
  auto& [family, client, before, holds, next] = dropping_.front();
  try {
    for (int count = 0; count < holds_max && next != holds.cend(); ++count, ++next)
      end_hold(*family, client, next->first, next->second, before,
               ipc::maker_of(next->first) == client ? "its owner died" : "freed: its last holder died");
  } catch (const std::bad_alloc&) {
    return;  // an heir has no room for it now: later
  }
  if (next == holds.cend()) dropping_.pop_front();
}

void Store::expire(TimePoint now) {
  while (!pins_.empty() && pins_.begin()->first <= now) {
    const ObjectId id = pins_.begin()->second;
    pins_.erase(pins_.begin());
    auto& entry = *entries_.at(id);
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
    tombstones_.add(gone.id, entry->second->end_reason);
    entries_.erase(entry);
  }
  return gone_;
}

std::size_t Store::size() const { return entries_.size() - ends_->noted().size(); }

std::vector<Store::Listed> Store::list(std::size_t limit, TimePoint now) const {
  std::vector<Listed> listed;
  for (const auto& [id, entry] : entries_) {
    if (listed.size() >= limit) break;
    auto object = entry->weak.lock();
    if (!object) continue;
    // Beside the entry's own and this one, every pointer is an op's or a part's.
    const long own = entry->strong ? 2 : 1;
    Listed row{object, entry->holders, 0, {}};
    row.in_ops = entry->weak.use_count() - own - 1;
    if (entry->pinned_until > now) row.pinned = entry->pinned_until - now;
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
  auto found = families_.find(client);
  return found == families_.end() ? 0 : found->second->own.size();
}

}  // namespace musterd
