// Who holds what, and to whom a hold passes. Families and all holds stand in one unit, so that the compiler can inline
// all that a hold and its release do.
#include "store/holds.hpp"

#include <algorithm>
#include <iterator>
#include <memory>
#include <new>
#include <utility>
#include <variant>

#include "base/assert.hpp"
#include "store/family.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

// ---- a family ----

const Hold* Family::find(ClientId client, ObjectId object) const {
  // A client may have thousands of heirs, and asks for itself again and again.
  const auto heir = payer_.client == client ? heirs_.end() : std::ranges::find(heirs_, client, &Heir::id);
  const HoldTable& holds = heir == heirs_.end() ? own_ : heir->kept;
  const auto found = holds.find(object);
  return found == holds.end() ? nullptr : found->second.get();
}

bool Family::is_inherited(ObjectId object) const {
  const auto hold = own_.find(object);
  return hold != own_.end() && !heirs_.empty() && heirs_.back().fork > hold->second->since;
}

/// Charges for many holds at once, so that the usual hold costs nothing here.
Result<void> Family::make_room(std::size_t more) {
  constexpr std::size_t step = 32;
  const std::size_t wanted = held_ + reserved_ + more;
  if (wanted <= room_) return {};
  return charge_for((wanted + step - 1) / step * step);
}

Result<void> Family::charge_for(std::size_t room) {
  // Users lend each other results only, and each result lies in one segment.
  constexpr std::uint64_t each =
      in_table(sizeof(HoldTable::value_type)) + in_table(sizeof(decltype(lent_)::value_type)) + sizeof(Hold);
  if (auto charged = ledger_.resize(charge_, payer_, room * each); !charged) return charged.error();
  room_ = room;
  return {};
}

/// Tables keep the memory that they once had, so one that has become far too large is rebuilt.
void Family::shrink() {
  constexpr std::size_t small = 4096;
  const std::size_t wanted = held_ + reserved_;
  if (room_ <= small || wanted > room_ / 8) return;
  own_.rehash(0);
  lent_.rehash(0);
  MUSTER_ASSERT(charge_for(std::max(small, 2 * wanted)), "to give something back is never refused");
}

void Family::end_reservation(std::size_t holds) {
  MUSTER_ASSERT(reserved_ >= holds, "only what was reserved is given back");
  reserved_ -= holds;
}

void Family::add(const ObjectPtr& object) {
  auto& entry = *object->entry;
  auto held = own_.find(object->id);
  if (held == own_.end()) {
    // What may throw for lack of memory comes first, as the two indexes must agree.
    auto hold = std::make_unique<Hold>(payer_.client, entry, forks_);
    const bool is_lent = object->user != payer_.user;
    if (is_lent)
      for (const auto& segment : object->segments) lent_.try_emplace(segment->id(), 0);
    held = own_.try_emplace(object->id, std::move(hold)).first;
    if (is_lent)
      for (const auto& segment : object->segments) ++lent_.find(segment->id())->second;
    entry.holders.holds.push_back(*held->second);
    ++held_;
  }
  ++held->second->count;
  entry.strong = object;
}

/// The client no longer holds this object. If it is another user's, its segments are lent less.
void Family::forget_lent(const Object& object) {
  if (object.user == payer_.user) return;
  for (const auto& segment : object.segments)
    if (const auto lent = lent_.find(segment->id()); --lent->second == 0) lent_.erase(lent);
}

std::optional<StoreEntry*> Family::release(ObjectId object) {
  const auto held = own_.find(object);
  if (held == own_.end()) return std::nullopt;
  if (held->second->count > 1) {
    --held->second->count;
    return nullptr;
  }
  const StoreEntry& entry = held->second->entry;
  StoreEntry* ended = end(held->second, no_fork);
  if (!lent_.empty()) forget_lent(*entry.strong);
  own_.erase(held);
  return ended;
}

StoreEntry* Family::end(std::unique_ptr<Hold>& hold, std::uint64_t before) {
  StoreEntry& entry = hold->entry;
  const auto after = std::ranges::lower_bound(heirs_, before, {}, &Heir::fork);
  const auto heir = after == heirs_.begin() ? heirs_.end() : std::prev(after);
  if (heir != heirs_.end() && heir->fork > hold->since) {
    const auto [kept, is_new] = heir->kept.try_emplace(entry.id);
    if (is_new) {
      hold->by = Holder::LifeLine{heir->id};
      hold->count = 1;
      kept->second = std::move(hold);
      return nullptr;
    }
    kept->second->since = std::min(kept->second->since, hold->since);
  }
  entry.holders.holds.erase(entry.holders.holds.iterator_to(*hold));
  hold.reset();
  --held_;
  return &entry;
}

Family::Heir Family::next_heir(ClientId id) {
  if (heirs_.size() == heirs_.capacity()) heirs_.reserve(2 * heirs_.size() + 1);
  return {.id = id, .fork = forks_ + 1, .kept = {}};
}

void Family::add_heir(Heir heir) noexcept {
  heirs_.push_back(std::move(heir));
  ++forks_;
}

DroppingNode Family::leave(ClientId client) {
  DroppingNode node;
  Dropping* dropping = nullptr;
  if (client == payer_.client) {
    node.swap(end_);
    dropping = &node.front();
    dropping->holds = std::move(own_);
    dropping->before = no_fork;
    lent_.clear();
  } else {
    const auto heir = std::ranges::find(heirs_, client, &Heir::id);
    node.swap(heir->end);
    dropping = &node.front();
    dropping->holds = std::move(heir->kept);
    dropping->before = heir->fork;
    heirs_.erase(heir);
  }
  dropping->client = client;
  dropping->next = dropping->holds.begin();
  return node;
}

// ---- all families ----

const Hold* Holds::find(ClientId client, ObjectId object) const {
  const auto known = families_.find(client);
  return known == families_.end() ? nullptr : known->second->find(client, object);
}

std::uint64_t Holds::held_by(ClientId client) const {
  const auto known = families_.find(client);
  return known == families_.end() ? 0 : known->second->held();
}

bool Holds::is_lent(ClientId client, SegmentId segment) const {
  const auto known = families_.find(client);
  return known != families_.end() && known->second->is_lent(segment);
}

/// Mappings of forked children are not counted, so an object that a child may have must stay. The table of what is lent
/// goes by segment, so an object that is lent to another user must stay, too.
bool Holds::fix_place(const StoreEntry& entry) const {
  const auto fixes_it = [&](const Hold& hold) {
    const auto* client = std::get_if<Holder::Client>(&hold.by);
    if (!client) return std::holds_alternative<Holder::LifeLine>(hold.by);
    const auto family = families_.find(client->id);
    // A holder without a family is being dropped, and an heir may get its hold.
    return family == families_.end() || family->second->user() != entry.user || family->second->is_inherited(entry.id);
  };
  return std::ranges::any_of(entry.holders.holds, fixes_it);
}

Family& Holds::family_of(Payer client) {
  if (const auto known = families_.find(client.client); known != families_.end()) return *known->second;
  const auto family = std::make_shared<Family>(ledger_, client);
  families_.emplace(client.client, family);
  return *family;
}

Result<Family*> Holds::room_for_one(Payer client) {
  Family& family = family_of(client);
  if (auto room = family.make_room(1); !room) return room.error();
  return &family;
}

void Holds::add(const ObjectPtr& object, Family& family) {
  family.add(object);
  if (object->entry->holders.pickles.runs()) pickles_.count(*object->entry);
}

Result<void> Holds::add(const ObjectPtr& object, Payer client) {
  auto family = room_for_one(client);
  if (!family) return family.error();
  add(object, **family);
  return {};
}

Result<void> Holds::reserve(Payer client, std::size_t more) {
  Family& family = family_of(client);
  if (auto room = family.make_room(more); !room) return room.error();
  family.reserve(more);
  return {};
}

void Holds::add_reserved(const ObjectPtr& object, ClientId client) {
  Family& family = *families_.at(client);
  MUSTER_ASSERT(family.reserved() > 0, "room was made before anybody was given anything");
  family.end_reservation(1);
  add(object, family);
}

void Holds::end_reservation(ClientId client, std::size_t holds) {
  if (const auto known = families_.find(client); known != families_.end()) known->second->end_reservation(holds);
}

Result<void> Holds::release(ObjectId id, ClientId client) {
  const auto missing = [&] { return Error(Code::invalid, label_of(id) + " was released without a hold"); };
  const auto known = families_.find(client);
  if (known == families_.end()) return missing();
  Family& family = *known->second;
  const auto ended = family.release(id);
  if (!ended) return missing();
  if (*ended) pickles_.after_hold(**ended, "freed: every hold of it was given up");
  family.shrink();
  return {};
}

void Holds::inherit(ClientId client, ClientId heir) {
  const auto known = families_.find(client);
  if (known == families_.end() || known->second->held() == 0) return;
  const FamilyPtr family = known->second;
  auto made = family->next_heir(heir);
  families_.emplace(heir, family);
  family->add_heir(std::move(made));
}

void Holds::drop_client(ClientId client) {
  const auto known = families_.find(client);
  if (known == families_.end()) return;
  const FamilyPtr family = known->second;
  families_.erase(known);
  dropping_.splice(dropping_.end(), family->leave(client));
  dropping_.back().family = family;
  drop_more();
}

void Holds::drop_more() {
  constexpr int holds_max = 512;  // about a tenth of a millisecond
  if (dropping_.empty()) return;
  auto& [family, client, before, holds, next] = dropping_.front();
  try {
    for (int count = 0; count < holds_max && next != holds.end(); ++count, ++next) {
      const bool was_maker = muster::ipc::maker_of(next->first) == client;
      if (StoreEntry* entry = family->end(next->second, before))
        pickles_.after_hold(*entry, was_maker ? "its owner died" : "freed: its last holder died");
    }
  } catch (const std::bad_alloc&) {
    return;  // there is no memory to pass a hold to an heir: try again later
  }
  if (next == holds.end()) dropping_.pop_front();
}

}  // namespace musterd
