// The objects: immutable arrays and bundles in regions, who holds them, and why an object is gone. An object lives
// while anything keeps it: a client's hold, a pickle lease, an op, an outcome in a group's history, or an object made
// of its parts.
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
#include <unordered_map>
#include <utility>
#include <vector>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/manifest.hpp>
#include <muster/result.hpp>

#include "base/secret_hash.hpp"
#include "base/time.hpp"
#include "memory/ledger.hpp"
#include "memory/result_pool.hpp"
#include "memory/segment_table.hpp"
#include "store/ends.hpp"
#include "store/moving.hpp"
#include "store/object.hpp"
#include "store/tombstones.hpp"

namespace musterd {

class Store {
 public:
  struct Limits {
    std::size_t tombstones = 1 << 14;  ///< how many ends are remembered
    Duration pickle_lease = std::chrono::minutes(10);
  };
  struct Totals {
    std::uint64_t bytes_deposited = 0;  ///< by clients, since the start
    std::uint64_t bytes_copied = 0;     ///< those of them that had to be copied into a segment
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

  /// Makes an object of a client's regions, with one hold of that client. The leaves must lie in the client's own ready
  /// segments. If there is a parent, the client must hold it, and the leaves must lie inside the parent's leaves. Fails
  /// with Invalid, Denied, QuotaExceeded.
  [[nodiscard]] muster::Result<ObjectPtr> seal(Payer client, ObjectId id, Capability capability, ObjectId parent,
                                               std::uint64_t copied_bytes, Manifest manifest, TimePoint now);
  /// Makes an object of a finished result. Only the returned pointer keeps it yet. The leaves of `manifest` lie in
  /// `region`. The caller chooses the capability, as it owns the randomness.
  [[nodiscard]] muster::Result<ObjectPtr> add_result(UserId user, Capability capability, Manifest&& manifest,
                                                     ResultRegion&& region, TimePoint now);

  /// The object if this client holds it. Otherwise Denied, or ObjectLost, with the reason if the object was of the
  /// client's user.
  [[nodiscard]] muster::Result<ObjectPtr> held(ObjectId id, Payer client) const;
  /// True if the client holds another user's object that lies in the segment. It may then read the segment although
  /// that is another user's.
  [[nodiscard]] bool holds_in(ClientId client, SegmentId segment) const;
  /// Adds a hold for a client that shows the capability; Denied if it shows another. Fails with ObjectLost as held()
  /// does, also if the object is another user's.
  enum class Found : std::uint8_t { by_pickle, again };
  [[nodiscard]] muster::Result<ObjectPtr> lookup(ObjectId id, Capability capability, Payer client,
                                                 Found found_by = Found::by_pickle);
  /// Adds a hold. QuotaExceeded if the client has no heap left for it.
  [[nodiscard]] muster::Result<void> hold(const ObjectPtr& object, Payer client);
  /// Reserves room for so many more holds of the client: see hold_reserved(). The room lasts until the client's end.
  [[nodiscard]] muster::Result<void> reserve(Payer client, std::size_t more);
  /// Adds a hold that has been reserved.
  void hold_reserved(const ObjectPtr& object, ClientId client);
  /// Gives back so many reserved holds that are not needed after all.
  void end_reservation(ClientId client, std::size_t holds);
  /// Ends one hold; Invalid if this client has none.
  [[nodiscard]] muster::Result<void> release(ObjectId id, ClientId client);
  /// Notes that the object was pickled, and keeps it until now + pickle_lease.
  [[nodiscard]] muster::Result<void> pin(ObjectId id, Payer client, TimePoint now);
  /// From now on all that `client` holds is kept for `heir`, the life line of a forked child, too. Nothing is copied: a
  /// hold passes to the heir when the client lets it go.
  void inherit(ClientId client, ClientId heir);
  /// Drops all holds of the client. As they may be many, this drops some, and drop_more() the rest.
  void drop_client(ClientId client);
  [[nodiscard]] bool drops() const { return !dropping_.empty(); }
  void drop_more();
  /// Ends pickle leases. If very many end at once, this ends some of them, and next_deadline() is in the past then.
  void expire(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;
  /// The bytes of objects that only pickled refs keep.
  [[nodiscard]] std::uint64_t pickled_bytes() const { return pickled_bytes_; }
  /// Whether some of these objects have been loaded, and go when others need the room.
  [[nodiscard]] bool has_loaded() const { return !loaded_.empty(); }
  /// Drops about so many bytes of loaded objects, but not too many objects at once. It begins with those that nobody
  /// has held for longest. False if there are none.
  bool drop_loaded(std::uint64_t bytes);

  /// How the object would leave this segment. Nothing if it must stay. It must if an op or a part of it uses its place,
  /// or if a forked child may, whose mappings nobody counts.
  [[nodiscard]] std::optional<Move> begin_move(ObjectId object, const SegmentPtr& from) const;
  /// How much a move has to look at: the number of the object's arrays and holders. 0 if there is no such object.
  [[nodiscard]] std::size_t looks_of_move(ObjectId object) const;
  /// How many bytes a reply takes that describes the object; 0 if there is no such object.
  [[nodiscard]] std::size_t description_bytes(ObjectId object) const;
  /// Puts the object into its new place, to which the pieces have been copied. False if the object must stay after all.
  bool finish_move(Move move);

  /// An object that has ended, so that its maker can be told. Each is returned once. An end is noticed wherever the
  /// last ObjectPtr goes, also outside of the store.
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
    std::uint32_t remembered = 0;  ///< outcomes in groups' histories
    long in_ops = 0;
    Duration pinned{};
  };
  /// Calls `row` with each object of the user, or of each user in turn, the oldest first, until `row` returns false.
  void list(std::optional<UserId> of, TimePoint now, const std::function<bool(const Listed&)>& row) const;
  /// How many objects a client holds, without those of its heirs.
  [[nodiscard]] std::uint64_t held_by(ClientId client) const;
  /// About how much memory goes with the object: segments in which nothing else lies, and at least its own bytes.
  [[nodiscard]] std::uint64_t pinned_bytes(const Object& object) const;

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  using Entry = StoreEntry;
  using Holds = boost::unordered_flat_map<ObjectId, std::unique_ptr<Holder>, std::hash<ObjectId>>;
  struct Family;
  using FamilyPtr = std::shared_ptr<Family>;
  /// The holds of a client or heir that is gone. Those before `next` have ended already.
  struct Dropping {
    FamilyPtr family;
    ClientId client;
    std::uint64_t before = 0;  ///< heirs of this fork and later ones don't get these holds
    Holds holds;
    Holds::iterator next;
  };
  /// One Dropping, made together with its client or heir, so that the end of that takes no memory.
  using DroppingNode = std::list<Dropping>;
  /// A forked child's life line. It has, too, what its parent held at the fork and still holds, though none of that is
  /// listed here.
  struct Heir {
    ClientId id;
    std::uint64_t fork = 0;  ///< which of the parent's forks, from 1 on
    Holds kept;              ///< holds that have passed to it since
    DroppingNode end = DroppingNode(1);
  };
  /// A client with its heirs. A hold that one of them lets go may pass to another. They are charged as one, so that
  /// this costs nothing more.
  struct Family {
    Payer payer;
    Holds own;
    std::vector<Heir> heirs;  ///< those that live, in the order of forks
    std::uint64_t forks = 0;
    /// Segments of other users that the client may read: how many of the objects that it holds lie in each.
    boost::unordered_flat_map<SegmentId, std::uint32_t, std::hash<SegmentId>> lent;
    std::size_t held = 0;      ///< holds of all
    std::size_t reserved = 0;  ///< holds that have room reserved
    std::size_t room = 0;      ///< how many holds it is charged for
    Charge charge;
    DroppingNode end = DroppingNode(1);
  };

  [[nodiscard]] muster::Result<void> check_new(Payer client, ObjectId id) const;
  [[nodiscard]] muster::Result<ObjectPtr> make(Payer client, ObjectId id, Capability capability, ObjectId parent,
                                               std::uint64_t copied_bytes, Manifest manifest, TimePoint now);
  [[nodiscard]] muster::Result<void> bind_own(Object& object, Payer client) const;
  [[nodiscard]] muster::Result<void> bind_to_parent(Object& object) const;
  [[nodiscard]] muster::Result<void> charge(Object& object, Payer payer) const;
  ObjectPtr insert(const std::shared_ptr<Watched>& watched);
  /// The object if nothing but the store keeps it, and no holder ties it to its place; null otherwise.
  [[nodiscard]] Object* at_rest(ObjectId object) const;
  /// True if the holder is a forked child, or has a forked child that holds the object, too.
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
  /// Entries are allocated one by one. So the table is small, which has to grow in one step, and entries stay where
  /// they are.
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
