#include "store/pickles.hpp"

namespace musterd {

namespace {

constexpr std::size_t unpinned_at_once = 256;  // about a fifth of a millisecond

}  // namespace

void Pickles::pin(StoreEntry& entry, TimePoint now) {
  PickleLease& lease = entry.holders.pickles;
  const TimePoint until = now + lease_;
  pins_.insert({until, &entry});  // this may throw for lack of memory
  if (lease.until != until) pins_.erase({lease.until, &entry});
  lease.until = until;
  ++lease.not_loaded;
}

void Pickles::note_loaded(StoreEntry& entry) {
  auto& not_loaded = entry.holders.pickles.not_loaded;
  if (not_loaded > 0) --not_loaded;
}

void Pickles::unpin(StoreEntry& entry, const char* reason) {
  PickleLease& lease = entry.holders.pickles;
  pins_.erase({lease.until, &entry});
  lease.until = {};
  lease.not_loaded = 0;
  count(entry);
  entry.end_unless_held(reason);
}

void Pickles::count(StoreEntry& entry) {
  PickleLease& lease = entry.holders.pickles;
  const bool alone = lease.runs() && entry.holders.holds.empty();
  const std::uint64_t bytes = alone && !entry.strong->parent ? entry.strong->bytes : 0;
  bytes_ += bytes - lease.bytes;
  lease.bytes = bytes;
  const bool may_go = alone && lease.not_loaded == 0;
  if (may_go == entry.PickleHook::is_linked()) return;
  if (may_go) loaded_.push_back(entry);
  else loaded_.erase(loaded_.iterator_to(entry));
}

void Pickles::expire(TimePoint now) {
  for (std::size_t left = unpinned_at_once; left > 0 && !pins_.empty() && pins_.begin()->until <= now; --left)
    unpin(*pins_.begin()->entry, "expired: nobody held it, and the lease of its pickled ref is over");
}

std::optional<TimePoint> Pickles::next_deadline() const {
  if (pins_.empty()) return std::nullopt;
  return pins_.begin()->until;
}

bool Pickles::drop_loaded(std::uint64_t bytes) {
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
