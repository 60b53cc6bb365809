// Who holds what. Holders are clients, and the life lines of their forked children.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <unordered_map>

#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

#include "memory/ledger.hpp"
#include "store/family.hpp"
#include "store/object.hpp"
#include "store/pickles.hpp"

namespace musterd {

/// Knows each client's holds, and lets an object go with its last one.
class Holds {
 public:
  Holds(Ledger& ledger, Pickles& pickles) : ledger_(ledger), pickles_(pickles) {}
  Holds(const Holds&) = delete;
  Holds& operator=(const Holds&) = delete;

  [[nodiscard]] const Hold* find(ClientId client, ObjectId object) const;
  /// How many objects a client holds, without those of its heirs.
  [[nodiscard]] std::uint64_t held_by(ClientId client) const;
  /// True if the client holds another user's object that lies in the segment. It may then read the segment although
  /// that is another user's.
  [[nodiscard]] bool is_lent(ClientId client, SegmentId segment) const;
  /// True if the object must stay where it lies because of who holds it.
  [[nodiscard]] bool fix_place(const StoreEntry& entry) const;

  /// Adds a hold. QuotaExceeded if the client has no heap left for it.
  [[nodiscard]] muster::Result<void> add(const ObjectPtr& object, Payer client);
  /// The same in two steps. Nobody may be dropped between them.
  [[nodiscard]] muster::Result<Family*> room_for_one(Payer client);
  void add(const ObjectPtr& object, Family& family);
  /// Reserves room for so many more holds of the client: see add_reserved(). The room lasts until the client's end.
  [[nodiscard]] muster::Result<void> reserve(Payer client, std::size_t more);
  /// Adds a hold that has been reserved.
  void add_reserved(const ObjectPtr& object, ClientId client);
  /// Gives back so many reserved holds that are not needed after all.
  void end_reservation(ClientId client, std::size_t holds);
  /// Ends one hold; Invalid if this client has none.
  [[nodiscard]] muster::Result<void> release(ObjectId id, ClientId client);

  /// From now on all that `client` holds is kept for `heir`, the life line of a forked child, too. Nothing is copied: a
  /// hold passes to the heir when the client lets it go.
  void inherit(ClientId client, ClientId heir);
  /// Drops all holds of the client or heir. As they may be many, this drops some, and drop_more() the rest.
  void drop_client(ClientId client);
  [[nodiscard]] bool drops() const { return !dropping_.empty(); }
  void drop_more();

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  Family& family_of(Payer client);

  Ledger& ledger_;
  Pickles& pickles_;
  std::unordered_map<ClientId, FamilyPtr> families_;  ///< by client and by heir
  std::list<Dropping> dropping_;
};

}  // namespace musterd
