#include "store/holds.hpp"

#include <algorithm>
#include <memory>
#include <new>
#include <utility>
#include <variant>

#include "base/assert.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

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
    if (!client) return true;
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

void Holds::after_last(StoreEntry& entry, const char* reason) {
  if (!entry.holders.holds.empty()) return;
  if (entry.holders.pickles.runs()) return pickles_.count(entry);
  entry.end_unless_held(reason);
}

Result<void> Holds::release(ObjectId id, ClientId client) {
  const auto missing = [&] { return Error(Code::invalid, label_of(id) + " was released without a hold"); };
  const auto known = families_.find(client);
  if (known == families_.end()) return missing();
  Family& family = *known->second;
  const auto ended = family.release(id);
  if (!ended) return missing();
  if (*ended) after_last(**ended, "freed: every hold of it was given up");
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
        after_last(*entry, was_maker ? "its owner died" : "freed: its last holder died");
    }
  } catch (const std::bad_alloc&) {
    return;  // there is no memory to pass a hold to an heir: try again later
  }
  if (next == holds.end()) dropping_.pop_front();
}

}  // namespace musterd
