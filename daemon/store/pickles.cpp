// How long a pickled ref keeps its object: until its lease ends. Once the pickle has been loaded, the object goes
// earlier if others need the room.
#include "store/store.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

namespace {

constexpr std::size_t unpinned_at_once = 256;  // about a fifth of a millisecond

}  // namespace

Result<void> Store::pin(ObjectId id, Payer client, TimePoint now) {
  auto object = held(id, client);
  if (!object) return object.error();
  // Nobody else's pickle can be loaded, see lookup().
  if ((*object)->user != client.user)
    return Error(Code::denied,
                 label_of(id) + " belongs to another user, whose processes alone can load a pickle of it");
  auto& entry = *(*object)->entry;
  const TimePoint until = now + limits_.pickle_lease;
  pins_.emplace(until, id);  // this may throw for lack of memory
  if (entry.pinned_until != until) pins_.erase({entry.pinned_until, id});
  entry.pinned_until = until;
  ++entry.not_loaded;
  return {};
}

void Store::note_loaded(const Object& object) {
  auto& entry = *object.entry;
  if (entry.not_loaded > 0) --entry.not_loaded;
}

/// Pickled refs no longer keep the object.
void Store::unpin(Entry& entry, const char* reason) {
  pins_.erase({entry.pinned_until, entry.strong->id});
  entry.pinned_until = {};
  entry.not_loaded = 0;
  count_kept_by_pickles(entry);
  let_go(entry, reason);
}

void Store::expire(TimePoint now) {
  for (std::size_t left = unpinned_at_once; left > 0 && !pins_.empty() && pins_.begin()->first <= now; --left)
    unpin(*entries_.at(pins_.begin()->second), "expired: nobody held it, and the lease of its pickled ref is over");
}

std::optional<TimePoint> Store::next_deadline() const {
  if (pins_.empty()) return std::nullopt;
  return pins_.begin()->first;
}

/// Must be called when the entry's holders or its pin change.
void Store::count_kept_by_pickles(Entry& entry) {
  const bool pinned = entry.pinned_until != TimePoint{};
  const std::uint64_t bytes = pinned && entry.holders.empty() && !entry.strong->parent ? entry.strong->bytes : 0;
  pickled_bytes_ += bytes - entry.pickled_bytes;
  entry.pickled_bytes = bytes;
  const bool may_go = pinned && entry.holders.empty() && entry.not_loaded == 0;
  if (may_go == entry.PickleHook::is_linked()) return;
  if (may_go) loaded_.push_back(entry);
  else loaded_.erase(loaded_.iterator_to(entry));
}

bool Store::drop_loaded(std::uint64_t bytes) {
  const bool any = !loaded_.empty();
  std::uint64_t dropped = 0;
  for (std::size_t left = unpinned_at_once; left > 0 && !loaded_.empty() && dropped < bytes; --left) {
    dropped += loaded_.front().strong->bytes;
    unpin(loaded_.front(),
          "freed: its pickled ref had been loaded, nobody held it any more, and others needed the room");
  }
  return any;
}

}  // namespace musterd
