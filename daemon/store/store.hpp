// The objects: how they come to be, how they are found, and how they end. An object lives while anything keeps it: a
// holder (see holders.hpp), an op, or an object made of its parts.
#pragma once

#include <boost/intrusive/list.hpp>
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/manifest.hpp>
#include <muster/result.hpp>

#include "base/secret_hash.hpp"
#include "base/time.hpp"
#include "memory/ledger.hpp"
#include "memory/result_pool.hpp"
#include "memory/segment_table.hpp"
#include "store/ends.hpp"
#include "store/holders.hpp"
#include "store/holds.hpp"
#include "store/moving.hpp"
#include "store/object.hpp"
#include "store/pickles.hpp"
#include "store/tokens.hpp"
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
        entries_(0, SecretHash{secret}),
        pickles_(limits.pickle_lease),
        holds_(ledger, pickles_),
        tokens_(ledger, pickles_),
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
  /// client's user. ObjectLost also if it was left in place and its owner has gone.
  [[nodiscard]] muster::Result<ObjectPtr> held(ObjectId id, Payer client) const;
  /// Adds a hold for a client that shows the capability; Denied if it shows another. Fails with ObjectLost as held()
  /// does, also if the object is another user's.
  enum class Found : std::uint8_t { by_pickle, again };
  [[nodiscard]] muster::Result<ObjectPtr> lookup(ObjectId id, Capability capability, Payer client,
                                                 Found found_by = Found::by_pickle);
  /// Notes that the client pickled the object, and keeps it until now + pickle_lease.
  [[nodiscard]] muster::Result<void> pin(ObjectId id, Payer client, TimePoint now);
  [[nodiscard]] Holds& holds() { return holds_; }
  [[nodiscard]] const Holds& holds() const { return holds_; }
  [[nodiscard]] Tokens& tokens() { return tokens_; }
  [[nodiscard]] const Tokens& tokens() const { return tokens_; }
  [[nodiscard]] Pickles& pickles() { return pickles_; }
  [[nodiscard]] const Pickles& pickles() const { return pickles_; }

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
    long in_ops = 0;
  };
  /// Calls `row` with each object of the user, or of each user in turn, the oldest first, until `row` returns false.
  void list(std::optional<UserId> of, const std::function<bool(const Listed&)>& row) const;
  /// About how much memory goes with the object: segments in which nothing else lies, and at least its own bytes.
  [[nodiscard]] std::uint64_t pinned_bytes(const Object& object) const;

 private:
  [[nodiscard]] muster::Result<void> check_new(Payer client, ObjectId id) const;
  [[nodiscard]] muster::Result<ObjectPtr> make(Payer client, ObjectId id, Capability capability, ObjectId parent,
                                               std::uint64_t copied_bytes, Manifest manifest, TimePoint now);
  [[nodiscard]] muster::Result<void> bind_own(Object& object, Payer client) const;
  [[nodiscard]] muster::Result<void> bind_to_parent(Object& object) const;
  [[nodiscard]] muster::Result<void> charge(Object& object, Payer payer) const;
  ObjectPtr insert(const std::shared_ptr<Watched>& watched);
  /// Null if there is no such object, or none any more.
  [[nodiscard]] ObjectPtr alive(ObjectId id) const;
  /// The object if nothing but the store keeps it, and no holder ties it to its place; null otherwise.
  [[nodiscard]] Object* at_rest(ObjectId object) const;
  [[nodiscard]] muster::Error lost(ObjectId id, UserId asks) const;

  Ledger& ledger_;
  SegmentTable& segments_;
  Totals totals_;
  /// Entries are allocated one by one. So the table is small, which has to grow in one step, and entries stay where
  /// they are.
  boost::unordered_flat_map<ObjectId, std::unique_ptr<StoreEntry>, SecretHash> entries_;
  using UserList = boost::intrusive::list<StoreEntry, boost::intrusive::base_hook<UserHook>,
                                          boost::intrusive::constant_time_size<false>>;
  std::map<UserId, UserList> by_user_;
  Pickles pickles_;
  Holds holds_;
  Tokens tokens_;
  std::uint32_t last_result_ = 0;
  Tombstones tombstones_;
  std::shared_ptr<Ends> ends_;
};

}  // namespace musterd
