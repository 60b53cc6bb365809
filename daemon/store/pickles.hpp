// How long a pickled ref keeps its object: until its lease ends. Once the pickle has been loaded, the object goes
// earlier if others need the room.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <optional>
#include <set>
#include <utility>

#include "base/time.hpp"
#include "store/object.hpp"

namespace musterd {

class Pickles {
 public:
  /// `lease`: how long a pickle keeps its object.
  explicit Pickles(Duration lease) : lease_(lease) {}

  /// Begins the lease of an object that the store keeps, or begins it anew.
  void pin(StoreEntry& entry, TimePoint now);
  static void note_loaded(StoreEntry& entry);
  /// Must be called when the first hold of an object with a lease begins, and when its last one ends.
  void count(StoreEntry& entry);
  /// Must be called when a hold of an object has ended. Lets the object go if that was the last one and no lease runs.
  void after_hold(StoreEntry& entry, const char* reason) {
    if (!entry.holders.holds.empty()) return;
    if (entry.holders.pickles.runs()) return count(entry);
    entry.end_unless_held(reason);
  }

  /// Ends leases. If very many end at once, this ends some of them, and next_deadline() is in the past then.
  void expire(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;
  /// The bytes of objects that only pickled refs keep.
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  /// Whether some of these objects have been loaded, and go when others need the room.
  [[nodiscard]] bool has_loaded() const { return !loaded_.empty(); }
  /// Drops about so many bytes of loaded objects, but not too many objects at once. It begins with those that nobody
  /// has held for longest. False if there are none.
  bool drop_loaded(std::uint64_t bytes);

 private:
  /// An entry stays where it is, and has no lease any more when it ends.
  struct Pin {
    TimePoint until;
    StoreEntry* entry;
    friend bool operator<(const Pin& a, const Pin& b) {
      return a.until != b.until ? a.until < b.until : a.entry->id < b.entry->id;
    }
  };
  void unpin(StoreEntry& entry, const char* reason);

  Duration lease_;
  std::set<Pin> pins_;
  boost::intrusive::list<StoreEntry, boost::intrusive::base_hook<PickleHook>,
                         boost::intrusive::constant_time_size<false>>
      loaded_;
  std::uint64_t bytes_ = 0;
};

}  // namespace musterd
