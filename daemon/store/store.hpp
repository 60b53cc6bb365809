// The objects: immutable arrays and bundles in regions, who holds them, and why one is gone.
// An object lives while anything holds it: a client's hold, a pickle's lease, an op, or an object made of its parts.
#pragma once

#include <boost/intrusive/list.hpp>
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/manifest.hpp>
#include <muster/ipc/small_vector.hpp>
#include <muster/result.hpp>

#include "base/secret_hash.hpp"
#include "base/assert.hpp"
#include "base/time.hpp"
#include "memory/ledger.hpp"
#include "memory/place.hpp"
#include "memory/result_pool.hpp"
#include "memory/segment_table.hpp"
#include "store/tombstones.hpp"

namespace musterd {

using muster::ipc::Capability;
using muster::ipc::Manifest;
using muster::ipc::ObjectId;

using Segments = muster::ipc::SmallVector<SegmentPtr, 1>;
using Memories = muster::ipc::SmallVector<const SegmentMemory*, 1>;

struct StoreEntry;

using HolderHook = boost::intrusive::list_base_hook<boost::intrusive::tag<struct OfHolder>,
                                                    boost::intrusive::link_mode<boost::intrusive::normal_link>>;

/// What a client, or an heir of one, holds of an object. The object has it in its list, and the client finds it by the
/// object's id: an object may have thousands of holders, and nobody walks over them.
struct Holder : HolderHook {
  Holder(ClientId by, StoreEntry& of, std::uint64_t forks) : client(by), entry(of), since(forks) {}
  ClientId client;
  StoreEntry& entry;
  std::uint64_t holds = 0;
  std::uint64_t since;  ///< how often the client had forked when it began
};
/// The first ones first.
using Holders = boost::intrusive::list<Holder, boost::intrusive::base_hook<HolderHook>>;

/// Leaves that lie elsewhere than they did at first. Who was told that place may still name it.
struct MovedLeaves {
  std::vector<muster::ipc::Leaf> before;              ///< where they lay
  std::vector<std::uint32_t> leaves;                  ///< which ones these are
  muster::ipc::SmallVector<ResultRegion, 1> regions;  ///< where they lie
  Charge charge;                                      ///< of what is remembered here
};

/// Immutable once made, but for where it lies: see Store::finish_move. Kept alive by shared_ptr (an op's lease is just
/// a copy); the store watches the end.
struct Object {
  ObjectId id;
  Capability capability;
  UserId user = 0;
  ClientId maker;  ///< 0: the daemon
  TimePoint made;
  Manifest manifest;
  std::uint64_t bytes = 0;               ///< of all leaves: those of a bundle are too many to add up again and again
  Segments segments;                     ///< where its bytes lie, each once, by id
  Memories memories;                     ///< behind each leaf, null for leaves without bytes
  std::shared_ptr<const Object> parent;  ///< whose bytes these are, if it is part of another; has none itself
  ResultRegion region;                   ///< of a result
  StoreEntry* entry = nullptr;           ///< what the store knows of it
  std::unique_ptr<MovedLeaves> moved;    ///< null: none
  Charge slot;
  Charge metadata;  ///< of a large manifest
  /// Its bytes in clients' segments. None of a part, whose bytes are its whole's.
  muster::ipc::SmallVector<Resident, 1> residents;

  [[nodiscard]] Place place(std::size_t leaf) const { return {memories[leaf], manifest.leaves[leaf].offset}; }
};
using ObjectPtr = std::shared_ptr<const Object>;

/// Of an object that pickles keep which have been loaded. Without an allocation: it gets there when a hold ends.
using PickleHook = boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

/// Of an object that has ended, until its maker is told: the same.
using GoneHook = boost::intrusive::list_base_hook<boost::intrusive::tag<struct OfGone>,
                                                  boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

/// Of a user's objects, the oldest first.
using UserHook = boost::intrusive::list_base_hook<boost::intrusive::tag<struct OfUser>,
                                                  boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

/// What may change about an object.
struct StoreEntry : PickleHook, GoneHook, UserHook {
  ObjectId id;
  ClientId maker;
  UserId user = 0;
  ObjectPtr strong;  ///< while holds or a pickle's lease keep it
  std::weak_ptr<const Object> weak;
  Holders holders;
  TimePoint pinned_until{};
  std::uint32_t not_loaded = 0;     ///< pickles that nobody has loaded yet, about: one may be loaded twice
  std::uint64_t pickled_bytes = 0;  ///< its bytes while nothing but pickles keeps it
  const char* end_reason = "freed";
};

[[nodiscard]] inline std::string label_of(ObjectId id) { return "object " + muster::ipc::text_of(id); }

/// What malloc adds to a block.
inline constexpr std::uint64_t block_bytes = 32;
/// What a table has free, or copies while it grows, and an element of `bytes`: altogether about so much.
[[nodiscard]] constexpr std::uint64_t in_table(std::uint64_t bytes) { return 3 * (bytes + 1); }

/// A larger description of an object is charged as memory, of which there is more than heap.
inline constexpr std::uint64_t metadata_in_heap_max = 4096;

/// An object on its way out of a segment.
struct Move {
  ObjectId object;
  std::weak_ptr<const Object> what;  ///< another one may have its id by the time of its end
  SegmentPtr from;
  struct Piece {
    std::uint32_t leaf = 0;
    Place place;
    std::uint64_t bytes = 0;
    std::uint64_t offset = 0;  ///< in the new region
  };
  std::vector<Piece> pieces;
  std::uint64_t bytes = 0;  ///< of the new region
  ResultRegion to;
};

class Store {
 public:
  struct Limits {
    std::size_t tombstones = 1 << 14;  ///< how many ends are remembered
    Duration pickle_lease = std::chrono::minutes(10);
  };
  struct Totals {
    std::uint64_t bytes_deposited = 0;  ///< by clients, since the start
    std::uint64_t bytes_copied = 0;     ///< of those, what had to be copied in
  };

  /// `secret`: see SecretHash.
  Store(Ledger& ledger, SegmentTable& segments, Limits limits, std::uint64_t secret = 1)
      : ledger_(ledger),
        segments_(segments),
        limits_(limits),
        entries_(0, SecretHash{secret}),
        tombstones_(limits.tombstones, secret),
        ends_(std::make_shared<Ends>(segments)) {}
  ~Store() { ends_->close(); }
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  /// A client's regions become an object with one hold of that client. The leaves must lie in its own ready segments,
  /// or inside the parent's leaves if it has one (which the client must hold). Invalid, Denied, QuotaExceeded.
  [[nodiscard]] muster::Result<ObjectPtr> seal(Payer client, ObjectId id, Capability capability, ObjectId parent,
                                               std::uint64_t copied_bytes, Manifest manifest, TimePoint now);
  /// A finished result; nobody holds it yet but the returned pointer. `manifest` leaves lie in `region`.
  /// capability: from the caller, who owns the randomness.
  [[nodiscard]] muster::Result<ObjectPtr> add_result(UserId user, Capability capability, Manifest&& manifest,
                                                     ResultRegion&& region, TimePoint now);

  /// The object if this client holds it; Denied, or ObjectLost (with the reason if it was of the client's user)
  /// otherwise.
  [[nodiscard]] muster::Result<ObjectPtr> held(ObjectId id, Payer client) const;
  /// True if the client holds another user's object that lies in the segment: then it may read it all the same.
  [[nodiscard]] bool holds_in(ClientId client, SegmentId segment) const;
  /// Adds a hold for a client that shows the capability, else Denied. ObjectLost as held() gives it, also where the
  /// object is another user's.
  enum class Found : std::uint8_t { by_pickle, again };
  [[nodiscard]] muster::Result<ObjectPtr> lookup(ObjectId id, Capability capability, Payer client,
                                                 Found found_by = Found::by_pickle);
  /// Adds a hold. QuotaExceeded if the client has no heap left for it.
  [[nodiscard]] muster::Result<void> hold(const ObjectPtr& object, Payer client);
  /// Sees to it that so many holds more of the client have room, for as long as it lives: see hold_reserved().
  [[nodiscard]] muster::Result<void> reserve(Payer client, std::size_t more);
  /// Adds a hold that has been reserved.
  void hold_reserved(const ObjectPtr& object, ClientId client);
  /// So many that were reserved are not wanted after all.
  void end_reservation(ClientId client, std::size_t holds);
  /// Gives one hold up; Invalid if this client has none.
  [[nodiscard]] muster::Result<void> release(ObjectId id, ClientId client);
  /// A pickled form exists: keeps the object until now + pickle_lease.
  [[nodiscard]] muster::Result<void> pin(ObjectId id, Payer client, TimePoint now);
  /// All that `client` holds now is kept for `heir` (a life line of a forked child), too. Nothing is copied: what the
  /// client lets go later goes to its heir then.
  void inherit(ClientId client, ClientId heir);
  /// Drops all holds of the client: some now, and the rest by drop_more(), as they may be many.
  void drop_client(ClientId client);
  [[nodiscard]] bool drops() const { return !dropping_.empty(); }
  void drop_more();
  /// Ends pickle leases; if very many end at once, some of them: then next_deadline() has passed already.
  void expire(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;
  /// What nothing but pickled refs keeps.
  [[nodiscard]] std::uint64_t pickled_bytes() const { return pickled_bytes_; }
  /// Whether some of that has been loaded, and goes when others need the room.
  [[nodiscard]] bool has_loaded() const { return !loaded_.empty(); }
  /// Lets about so many bytes of it go, but not too many objects at once, first what nobody has held for longest. False
  /// if there is none.
  bool drop_loaded(std::uint64_t bytes);

  /// How the object would leave this segment. Nothing if it must stay: an op or a part of it uses its place, or a
  /// forked child, whose mappings nobody counts.
  [[nodiscard]] std::optional<Move> begin_move(ObjectId object, const SegmentPtr& from) const;
  /// How much a move has to look at: the object's arrays and holders; 0 if there is none.
  [[nodiscard]] std::size_t looks_of_move(ObjectId object) const;
  /// What a reply takes that describes the object; 0 if there is none.
  [[nodiscard]] std::size_t description_bytes(ObjectId object) const;
  /// The pieces have been copied: from now on the object lies there. False if it must stay after all.
  bool finish_move(Move move);

  /// An object that has ended, for telling its maker; each once. Ends are noticed when the last ObjectPtr outside goes,
  /// too.
  struct Gone {
    ObjectId id;
    ClientId maker;
  };
  [[nodiscard]] std::optional<Gone> take_gone();

  [[nodiscard]] std::size_t size() const;
  [[nodiscard]] const Totals& totals() const { return totals_; }
  /// For `muster ls`: an object and its holders.
  struct Listed {
    ObjectPtr object;
    const Holders& holders;
    long in_ops = 0;
    Duration pinned{};
  };
  /// Calls `row` with each object of the user, or of each user in turn, the oldest first, until that returns false.
  void list(std::optional<UserId> of, TimePoint now, const std::function<bool(const Listed&)>& row) const;
  /// Of a client, not of an heir.
  [[nodiscard]] std::uint64_t held_by(ClientId client) const;
  /// The memory that goes with the object, about: segments in which nothing else lies, and at least its own bytes.
  [[nodiscard]] std::uint64_t pinned_bytes(const Object& object) const;

 private:
  friend class NodeAudit;  ///< of the tests: adds up what is held
  using Entry = StoreEntry;
  using Holds = boost::unordered_flat_map<ObjectId, std::unique_ptr<Holder>, std::hash<ObjectId>>;
  struct Family;
  using FamilyPtr = std::shared_ptr<Family>;
  /// The holds of a client or heir that is gone, up to `next` ended already.
  struct Dropping {
    FamilyPtr family;
    ClientId client;
    std::uint64_t before = 0;  ///< heirs of later forks have nothing of it
    Holds holds;
    Holds::iterator next;
  };
  /// One, made with what it is for, so that nothing is needed when that ends.
  using DroppingNode = std::list<Dropping>;
  /// A forked child's life line. It has what its parent held at the fork and still holds, without a word of it here.
  struct Heir {
    ClientId id;
    std::uint64_t fork = 0;  ///< which of the parent's forks, from 1 on
    Holds kept;              ///< what has been let go since
    DroppingNode end = DroppingNode(1);
  };
  /// A client with its heirs. What one of them lets go another may have to keep: they are charged as one, so that this
  /// takes nothing more.
  struct Family {
    Payer payer;
    Holds own;
    std::vector<Heir> heirs;  ///< the alive, in the order of forks
    std::uint64_t forks = 0;
    /// In how many of its objects that are another user's each segment has a part: it may read those.
    boost::unordered_flat_map<SegmentId, std::uint32_t, std::hash<SegmentId>> lent;
    std::size_t held = 0;      ///< holds of all
    std::size_t reserved = 0;  ///< to come
    std::size_t room = 0;      ///< for how many it is charged
    Charge charge;
    DroppingNode end = DroppingNode(1);
  };

  /// Objects that ended; shared with their deleters. An end on another thread than the store's would be a data race.
  class Ends {
   public:
    explicit Ends(SegmentTable& segments) : segments_(segments) {}
    void note(Entry& entry) {
      MUSTER_ASSERT(std::this_thread::get_id() == thread_, "objects are let go where the store lives");
      if (closed_) return;
      noted_.push_back(entry);
      ++count_;
    }
    /// Null if there is none.
    [[nodiscard]] Entry* take() {
      if (noted_.empty()) return nullptr;
      Entry& entry = noted_.front();
      noted_.pop_front();
      --count_;
      return &entry;
    }
    [[nodiscard]] std::size_t count() const { return count_; }
    /// The store ends, and its entries do.
    void close() {
      closed_ = true;
      noted_.clear();
    }
    /// To free what describes many arrays takes longer than the control thread has time for.
    void bury(Object& object);

   private:
    SegmentTable& segments_;
    std::thread::id thread_ = std::this_thread::get_id();
    boost::intrusive::list<Entry, boost::intrusive::base_hook<GoneHook>, boost::intrusive::constant_time_size<false>>
        noted_;
    std::size_t count_ = 0;
    bool closed_ = false;
  };

  /// An object, and who hears of its end: it is noticed wherever the last pointer goes.
  struct Watched {
    Watched() = default;
    Watched(const Watched&) = delete;
    Watched& operator=(const Watched&) = delete;
    ~Watched() {
      if (!ends) return;
      ends->note(*object.entry);
      ends->bury(object);
    }
    Object object;
    std::shared_ptr<Ends> ends;  ///< null until the store has it
  };

  [[nodiscard]] muster::Result<void> check_new(Payer client, ObjectId id) const;
  [[nodiscard]] muster::Result<ObjectPtr> make(Payer client, ObjectId id, Capability capability, ObjectId parent,
                                               std::uint64_t copied_bytes, Manifest manifest, TimePoint now);
  [[nodiscard]] muster::Result<void> bind_own(Object& object, Payer client) const;
  [[nodiscard]] muster::Result<void> bind_to_parent(Object& object) const;
  [[nodiscard]] muster::Result<void> charge(Object& object, Payer payer) const;
  ObjectPtr insert(const std::shared_ptr<Watched>& watched);
  /// The object if nobody has it but the store; null otherwise.
  [[nodiscard]] Object* at_rest(ObjectId object) const;
  /// True if the holder is a forked child, or has one that holds the object, too.
  [[nodiscard]] static bool is_inherited(const Family& family, ClientId holder, ObjectId object);
  [[nodiscard]] muster::Error lost(ObjectId id, UserId asks) const;
  Family& family_of(Payer client);
  [[nodiscard]] muster::Result<void> make_room(Family& family, std::size_t more) const;
  [[nodiscard]] muster::Result<void> charge_for(Family& family, std::size_t room) const;
  void shrink(Family& family) const;
  void add_hold(Family& family, const ObjectPtr& object);
  void end_hold(Family& family, std::unique_ptr<Holder>& hold, std::uint64_t before, const char* reason);
  static void forget_lent(Family& family, const Object& object);
  [[nodiscard]] const Holder* find_hold(ClientId client, ObjectId object) const;
  void let_go(Entry& entry, const char* reason);
  static void note_loaded(const Object& object);
  void unpin(Entry& entry, const char* reason);
  void count_kept_by_pickles(Entry& entry);

  Ledger& ledger_;
  SegmentTable& segments_;
  Limits limits_;
  Totals totals_;
  /// Entries lie apart: what grows in one step is small, and they stay where they are.
  boost::unordered_flat_map<ObjectId, std::unique_ptr<Entry>, SecretHash> entries_;
  using UserList =
      boost::intrusive::list<Entry, boost::intrusive::base_hook<UserHook>, boost::intrusive::constant_time_size<false>>;
  std::map<UserId, UserList> by_user_;
  std::unordered_map<ClientId, FamilyPtr> families_;  ///< by client and by heir
  std::list<Dropping> dropping_;
  std::set<std::pair<TimePoint, ObjectId>> pins_;
  boost::intrusive::list<Entry, boost::intrusive::base_hook<PickleHook>, boost::intrusive::constant_time_size<false>>
      loaded_;
  std::uint64_t pickled_bytes_ = 0;
  std::uint32_t last_result_ = 0;
  Tombstones tombstones_;
  std::shared_ptr<Ends> ends_;
};

}  // namespace musterd
