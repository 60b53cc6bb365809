// Who holds what. Holders are clients, and the life lines of their forked children. A life line has what the parent
// held at the fork.
#include <algorithm>
#include <iterator>
#include <limits>
#include <new>

#include "base/assert.hpp"
#include "base/make_room.hpp"
#include "store/store.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

namespace {

/// Later than any fork.
constexpr std::uint64_t no_fork = std::numeric_limits<std::uint64_t>::max();

}  // namespace

bool Store::holds_in(ClientId client, SegmentId segment) const {
  auto found = families_.find(client);
  if (found == families_.end()) return false;
  const auto lent = found->second->lent.find(segment);
  return lent != found->second->lent.end() && lent->second > 0;
}

const Holder* Store::find_hold(ClientId client, ObjectId id) const {
  const auto known = families_.find(client);
  if (known == families_.end()) return nullptr;
  const Family& family = *known->second;
  const auto heir = std::ranges::find(family.heirs, client, &Heir::id);
  const Holds& holds = family.payer.client == client || heir == family.heirs.end() ? family.own : heir->kept;
  const auto found = holds.find(id);
  return found == holds.end() ? nullptr : found->second.get();
}

/// The family no longer holds this object. If it is another user's, its segments are lent less.
void Store::forget_lent(Family& family, const Object& object) {
  if (object.user == family.payer.user) return;
  for (const auto& segment : object.segments)
    if (const auto lent = family.lent.find(segment->id()); --lent->second == 0) family.lent.erase(lent);
}

Store::Family& Store::family_of(Payer client) {
  if (const auto known = families_.find(client.client); known != families_.end()) return *known->second;
  const auto family = std::make_shared<Family>();
  family->payer = client;
  families_.emplace(client.client, family);
  return *family;
}

/// Charges for many holds at once, so that the usual hold costs nothing here.
Result<void> Store::make_room(Family& family, std::size_t more) const {
  constexpr std::size_t step = 32;
  const std::size_t wanted = family.held + family.reserved + more;
  if (wanted <= family.room) return {};
  return charge_for(family, (wanted + step - 1) / step * step);
}

/// Tables keep the memory that they once had, so a table that has become far too large is rebuilt.
void Store::shrink(Family& family) const {
  constexpr std::size_t small = 4096;
  const std::size_t wanted = family.held + family.reserved;
  if (family.room <= small || wanted > family.room / 8) return;
  family.own.rehash(0);
  family.lent.rehash(0);
  MUSTER_ASSERT(charge_for(family, std::max(small, 2 * wanted)), "to give something back is never refused");
}

Result<void> Store::charge_for(Family& family, std::size_t room) const {
  // Users lend each other results only, and each result lies in one segment.
  constexpr std::uint64_t each =
      in_table(sizeof(Holds::value_type)) + in_table(sizeof(decltype(family.lent)::value_type)) + sizeof(Holder);
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
  family.reserved += more;
  return {};
}

void Store::hold_reserved(const ObjectPtr& object, ClientId client) {
  Family& family = *families_.at(client);
  MUSTER_ASSERT(family.reserved > 0, "room was made before anybody was given anything");
  --family.reserved;
  add_hold(family, object);
}

void Store::end_reservation(ClientId client, std::size_t holds) {
  const auto known = families_.find(client);
  if (known == families_.end()) return;
  Family& family = *known->second;
  MUSTER_ASSERT(family.reserved >= holds, "only what was reserved is given back");
  family.reserved -= holds;
}

void Store::add_hold(Family& family, const ObjectPtr& object) {
  auto& entry = *object->entry;
  auto held = family.own.find(object->id);
  const bool is_new = held == family.own.end();
  if (is_new) {
    // What may throw for lack of memory comes first, as the two indexes must agree.
    auto hold = std::make_unique<Holder>(family.payer.client, entry, family.forks);
    const bool is_lent = object->user != family.payer.user;
    if (is_lent)
      for (const auto& segment : object->segments) family.lent.try_emplace(segment->id(), 0);
    held = family.own.try_emplace(object->id, std::move(hold)).first;
    if (is_lent)
      for (const auto& segment : object->segments) ++family.lent.find(segment->id())->second;
    entry.holders.push_back(*held->second);
    ++family.held;
  }
  ++held->second->holds;
  entry.strong = object;
  if (entry.pinned_until != TimePoint{}) count_kept_by_pickles(entry);
}

void Store::let_go(Entry& entry, const char* reason) {
  if (!entry.holders.empty()) return;
  if (entry.pinned_until != TimePoint{}) return count_kept_by_pickles(entry);
  entry.end_reason = reason;
  entry.strong.reset();
}

/// The hold passes to the family's last heir of a fork before `before` and after the hold began. Without such an heir
/// it ends.
void Store::end_hold(Family& family, std::unique_ptr<Holder>& hold, std::uint64_t before, const char* reason) {
  Entry& entry = hold->entry;
  const auto after = std::ranges::lower_bound(family.heirs, before, {}, &Heir::fork);
  const auto heir = after == family.heirs.begin() ? family.heirs.end() : std::prev(after);
  if (heir != family.heirs.end() && heir->fork > hold->since) {
    const auto [kept, is_new] = heir->kept.try_emplace(entry.id);
    if (is_new) {
      hold->client = heir->id;
      hold->holds = 1;
      kept->second = std::move(hold);
      return;
    }
    kept->second->since = std::min(kept->second->since, hold->since);
  }
  entry.holders.erase(entry.holders.iterator_to(*hold));
  hold.reset();
  --family.held;
  let_go(entry, reason);
}

Result<void> Store::release(ObjectId id, ClientId client) {
  const auto missing = [&] { return Error(Code::invalid, label_of(id) + " was released without a hold"); };
  const auto found = families_.find(client);
  if (found == families_.end()) return missing();
  Family& family = *found->second;
  const auto held = family.own.find(id);
  if (held == family.own.end()) return missing();
  Holder& hold = *held->second;
  if (hold.holds > 1) {
    --hold.holds;
    return {};
  }
  if (!family.lent.empty()) forget_lent(family, *hold.entry.strong);
  end_hold(family, held->second, no_fork, "freed: every hold of it was given up");
  family.own.erase(held);
  shrink(family);
  return {};
}

void Store::inherit(ClientId client, ClientId heir) {
  auto found = families_.find(client);
  if (found == families_.end() || found->second->own.empty()) return;
  const FamilyPtr family = found->second;
  make_room_in(family->heirs);
  Heir made{.id = heir, .fork = family->forks + 1, .kept = {}};
  families_.emplace(heir, family);
  family->heirs.push_back(std::move(made));
  ++family->forks;
}

void Store::drop_client(ClientId client) {
  auto found = families_.find(client);
  if (found == families_.end()) return;
  const FamilyPtr family = found->second;
  families_.erase(found);
  std::uint64_t before = no_fork;
  if (client == family->payer.client) {
    family->end.front().holds = std::move(family->own);
    family->lent.clear();
    dropping_.splice(dropping_.end(), family->end);
  } else {
    const auto heir =
        std::find_if(family->heirs.begin(), family->heirs.end(), [&](const Heir& each) { return each.id == client; });
    before = heir->fork;
    heir->end.front().holds = std::move(heir->kept);
    dropping_.splice(dropping_.end(), heir->end);
    family->heirs.erase(heir);
  }
  Dropping& dropping = dropping_.back();
  dropping.family = family;
  dropping.client = client;
  dropping.before = before;
  dropping.next = dropping.holds.begin();
  drop_more();
}

void Store::drop_more() {
  constexpr int holds_max = 512;  // about a tenth of a millisecond
  if (dropping_.empty()) return;
  auto& [family, client, before, holds, next] = dropping_.front();
  try {
    for (int count = 0; count < holds_max && next != holds.end(); ++count, ++next)
      end_hold(*family, next->second, before,
               ipc::maker_of(next->first) == client ? "its owner died" : "freed: its last holder died");
  } catch (const std::bad_alloc&) {
    return;  // there is no memory to pass a hold to an heir: try again later
  }
  if (next == holds.end()) dropping_.pop_front();
}

std::uint64_t Store::held_by(ClientId client) const {
  auto found = families_.find(client);
  return found == families_.end() ? 0 : found->second->own.size();
}

}  // namespace musterd
