// How objects are found, and how they end.
#include "store/store.hpp"

#include <algorithm>
#include <iterator>
#include <string>

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

/// Ids count up, so the reason must not tell a user what others have. All objects of others look alike.
Error Store::lost(ObjectId id, UserId asks) const {
  const auto* end = tombstones_.find(id);
  const std::string reason =
      end && end->user == asks ? end->reason : "it was freed long ago, never existed, or belongs to another user";
  const bool was_there = !reason.starts_with("it was never stored");
  return Error(Code::object_lost, label_of(id) + (was_there ? " is gone: " : " is missing: ") + reason,
               was_there ? "keep a Ref to it for as long as it is needed; a pickled ref alone keeps it only for the "
                           "pickle lease"
                         : "ref.get() where it was made says more; free refs that are not needed, or raise the limit");
}

ObjectPtr Store::alive(ObjectId id) const {
  const auto found = entries_.find(id);
  return found == entries_.end() ? nullptr : found->second->weak.lock();
}

Result<ObjectPtr> Store::held(ObjectId id, Payer client) const {
  if (const Hold* hold = holds_.find(client.client, id)) {
    if (is_lost(*hold->entry.strong)) return owner_gone(label_of(id));
    return hold->entry.strong;
  }
  const auto object = alive(id);
  if (!object || object->user != client.user) return lost(id, client.user);
  return Error(Code::denied, label_of(id) + " is not held by this client");
}

Result<ObjectPtr> Store::lookup(ObjectId id, Capability capability, Payer client, Found found_by) {
  auto object = alive(id);
  if (!object || object->user != client.user) return lost(id, client.user);
  if (object->capability != capability)
    return Error(Code::denied, label_of(id) + " needs another capability than the ref shows",
                 "use the ref as it was pickled");
  if (is_lost(*object)) return owner_gone(label_of(id));
  if (auto held = holds_.add(object, client); !held) return held.error();
  if (found_by == Found::by_pickle) Pickles::note_loaded(*object->entry);
  return object;
}

Result<void> Store::pin(ObjectId id, Payer client, TimePoint now) {
  auto object = held(id, client);
  if (!object) return object.error();
  // Nobody else's pickle can be loaded, see lookup().
  if ((*object)->user != client.user)
    return Error(Code::denied,
                 label_of(id) + " belongs to another user, whose processes alone can load a pickle of it");
  pickles_.pin(*(*object)->entry, now);
  return {};
}

std::optional<Store::Gone> Store::take_gone() {
  const StoreEntry* entry = ends_->take();
  if (!entry) return std::nullopt;
  const Gone gone{entry->id, entry->maker};
  tombstones_.add(gone.id, {entry->end_reason, entry->user});
  entries_.erase(gone.id);
  return gone;
}

std::size_t Store::description_bytes(ObjectId id) const {
  const auto object = alive(id);
  return object ? muster::ipc::encoded_bytes(object->manifest) : 0;
}

std::size_t Store::size() const { return entries_.size() - ends_->count(); }

void Store::list(std::optional<UserId> of, const std::function<bool(const Listed&)>& row) const {
  const auto first = of ? by_user_.find(*of) : by_user_.begin();
  const auto last = of && first != by_user_.end() ? std::next(first) : by_user_.end();
  for (auto user = first; user != last; ++user) {
    for (const StoreEntry& entry : user->second) {
      Listed listed{entry.weak.lock(), entry.holders};
      if (!listed.object) continue;
      // Beside the entry's pointer, this one and those of histories, every pointer is an op's or a part's.
      listed.in_ops = entry.weak.use_count() - (entry.strong ? 2 : 1) - static_cast<long>(entry.holders.outcomes);
      if (!row(listed)) return;
    }
  }
}

std::uint64_t Store::pinned_bytes(const Object& object) const {
  if (object.parent || object.in_place) return 0;
  const std::uint64_t own = object.bytes;
  // A list must not walk over the many segments of large bundles, which fill most of their segments anyway.
  constexpr std::size_t segments_max = 16;
  if (object.segments.size() > segments_max) return own;
  std::uint64_t alone = 0;
  for (const auto& segment : object.segments)
    if (segments_.holders_of(segment) == 1) alone += segment->bytes();
  return std::max(alone, own);
}

}  // namespace musterd
