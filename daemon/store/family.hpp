// What a client and its forked children hold. A child's life line is an heir: it has what its parent held at the fork
// and still holds, and it gets what the parent lets go. A fork copies nothing: a hold says how often its client had
// forked when it began, and so tells which heirs have it, too.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

#include "memory/ledger.hpp"
#include "store/holders.hpp"
#include "store/object.hpp"

namespace musterd {

using HoldTable = boost::unordered_flat_map<ObjectId, std::unique_ptr<Hold>, std::hash<ObjectId>>;

class Family;
using FamilyPtr = std::shared_ptr<Family>;

/// The holds of a client or heir that is gone. Those before `next` have ended already.
struct Dropping {
  FamilyPtr family;
  ClientId client;
  std::uint64_t before = 0;  ///< heirs of this fork and later ones don't get these holds
  HoldTable holds;
  HoldTable::iterator next;
};
/// One Dropping, made together with its client or heir, so that the end of that takes no memory.
using DroppingNode = std::list<Dropping>;

/// A client and its heirs are charged as one, so a hold that passes from one to another costs nothing more.
class Family {
 public:
  /// Later than any fork.
  static constexpr std::uint64_t no_fork = std::numeric_limits<std::uint64_t>::max();

  Family(Ledger& ledger, Payer payer) : ledger_(ledger), payer_(payer) {}
  Family(const Family&) = delete;
  Family& operator=(const Family&) = delete;

  [[nodiscard]] UserId user() const { return payer_.user; }
  /// The hold of the client, or one that has passed to that heir; null if there is none.
  [[nodiscard]] const Hold* find(ClientId client, ObjectId object) const;
  /// How many objects the client holds, without those of its heirs.
  [[nodiscard]] std::size_t held() const { return own_.size(); }
  /// Whether a forked child has the client's hold, too.
  [[nodiscard]] bool is_inherited(ObjectId object) const;
  /// True if the client holds another user's object that lies in the segment.
  [[nodiscard]] bool is_lent(SegmentId segment) const {
    const auto lent = lent_.find(segment);
    return lent != lent_.end() && lent->second > 0;
  }

  /// Charges for `more` holds beside those that are there and reserved.
  [[nodiscard]] muster::Result<void> make_room(std::size_t more);
  void reserve(std::size_t holds) { reserved_ += holds; }
  void end_reservation(std::size_t holds);
  [[nodiscard]] std::size_t reserved() const { return reserved_; }

  /// Adds a hold of the client, for which there is room. If it throws for lack of memory, there is no hold more.
  void add(const ObjectPtr& object);
  /// Ends one hold of the client. Returns the object's entry if it was the client's last one and no heir gets it, and
  /// null otherwise. Nothing if the client has none.
  [[nodiscard]] std::optional<StoreEntry*> release(ObjectId object);
  /// Gives memory back if a table has become far too large.
  void shrink();

  struct Heir {
    ClientId id;
    std::uint64_t fork = 0;  ///< which of the client's forks, from 1 on
    HoldTable kept;          ///< holds that have passed to it
    DroppingNode end = DroppingNode(1);
  };
  /// Makes an heir for the next fork, and room for it. All that needs memory is done here.
  [[nodiscard]] Heir next_heir(ClientId id);
  /// From now on the heir has all that the client holds now.
  void add_heir(Heir heir) noexcept;
  /// Takes the client or heir out, and hands over its holds. Each of them ends with end().
  [[nodiscard]] DroppingNode leave(ClientId client);
  /// The hold passes to the last heir of a fork before `before` and after the hold began. Without such an heir it ends,
  /// and its object's entry is returned; null otherwise. Changes nothing if it throws for lack of memory.
  StoreEntry* end(std::unique_ptr<Hold>& hold, std::uint64_t before);

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  [[nodiscard]] muster::Result<void> charge_for(std::size_t room);
  void forget_lent(const Object& object);

  Ledger& ledger_;
  Payer payer_;
  HoldTable own_;
  std::vector<Heir> heirs_;  ///< those that live, in the order of forks
  std::uint64_t forks_ = 0;
  /// Segments of other users that the client may read: how many of the objects that it holds lie in each.
  boost::unordered_flat_map<SegmentId, std::uint32_t, std::hash<SegmentId>> lent_;
  std::size_t held_ = 0;      ///< holds of all
  std::size_t reserved_ = 0;  ///< holds that have room reserved
  std::size_t room_ = 0;      ///< how many holds it is charged for
  Charge charge_;
  DroppingNode end_ = DroppingNode(1);
};

}  // namespace musterd
