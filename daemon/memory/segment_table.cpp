#include "memory/segment_table.hpp"

#include <algorithm>
#include <new>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/device_text.hpp>

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

namespace {

Error not_yours(SegmentId id) {
  return Error(Code::denied, label(id) + " was not leased to this client, or was given back");
}

/// The error of a sealing whose work did not run.
Error not_done(SegmentId id) {
  return Error(Code::out_of_memory, label(id) + " was not sealed: the daemon has no memory left for itself",
               "try again");
}

}  // namespace

Result<SegmentPtr> SegmentTable::lease(Payer client, const Wanted& wanted, Turn turn) {
  const auto* made_of = backings_.find(wanted.device);
  if (!made_of) return ipc::no_such_device(wanted.device, devices());
  if (wanted.hard && !wanted.device.is_host())
    return Error(Code::invalid, "memory on " + name(wanted.device) + " can't be sealed hard",
                 "leave hard away, or use memory of the host");
  if (wanted.bytes == 0) return Error(Code::invalid, "can't make a segment of 0 B", "ask for at least 1 byte");
  if (wanted.bytes > made_of->limits.bytes_max)
    return Error(Code::invalid, "can't make a segment of " + ipc::over_text(wanted.bytes, made_of->limits.bytes_max),
                 "use smaller arrays");
  auto segment = book(client, wanted, turn);
  if (!segment) return segment.error();
  auto& writer = clients_[client.client];
  (*segment)->hard_requested_ = wanted.hard;
  if (auto created = create(**segment, SegmentSpec::Writer::client); !created) return created.error();
  kept_.emplace((*segment)->id(), *segment);
  writer.leased.push_back(**segment);
  return *segment;
}

/// The allocation takes nothing of the store: its owner has paid for it.
Result<SegmentPtr> SegmentTable::leave_in_place(Payer client, muster::Device device, const ipc::InPlaceMemory& memory) {
  const auto* there = backings_.find(device);
  if (!there) return ipc::no_such_device(device, devices());
  if (device.is_host())
    return Error(Code::invalid, "memory on " + name(device) + " can't be left in place", "only memory of GPUs can");
  if (memory.bytes == 0 || memory.bytes > there->limits.bytes_max)
    return Error(
        Code::invalid,
        "an allocation of " + ipc::over_text(memory.bytes, there->limits.bytes_max) + " can't be left in place",
        "give the size of the whole allocation");
  auto number = ledger_.charge(client, Resource::in_place, 1, segment_heap_bytes);
  if (!number) return number.error();
  auto segment = insert(client, device, memory.bytes, std::move(*number));
  segment->in_place_ = true;
  auto& owner = clients_[client.client];
  if (auto created = create(*segment, SegmentSpec::Writer::client, &memory); !created) return created.error();
  kept_.emplace(segment->id(), segment);
  owner.in_place.push_back(*segment);
  return segment;
}

Result<void> SegmentTable::create(Segment& segment, SegmentSpec::Writer writer, const ipc::InPlaceMemory* in_place) {
  auto memory = backings_.find(segment.device_)
                    ->backing->create({.id = segment.id_,
                                       .bytes = segment.bytes_,
                                       .writer = writer,
                                       .hard = segment.hard_requested_,
                                       .user = segment.owner_.user,
                                       .in_place = in_place});
  if (!memory) return memory.error();
  segment.memory_ = std::move(*memory);
  return {};
}

Result<SegmentPtr> SegmentTable::book(Payer payer, const Wanted& wanted, Turn turn) {
  const std::uint64_t unit = backings_.find(wanted.device)->limits.granularity_bytes;
  const std::uint64_t bytes = (wanted.bytes + unit - 1) / unit * unit;
  const Resource resource = memory_of(wanted.device);
  const bool small = resource == Resource::memory && bytes <= small_segment_bytes_max;
  if (!small && turn == Turn::before_others)
    return Error(
        Code::out_of_memory,
        "the reserve is for small segments, and this one has " + ipc::over_text(bytes, small_segment_bytes_max),
        "wait for memory in line");
  auto memory = small ? ledger_.charge_small(payer, bytes, turn, segment_heap_bytes)
                      : ledger_.charge(payer, resource, bytes, segment_heap_bytes);
  if (!memory) return memory.error();
  auto descriptor = ledger_.charge(payer, Resource::fds, 1);
  if (!descriptor) return descriptor.error();
  auto map = ledger_.charge(payer, Resource::maps, wanted.device.is_host() ? 1 : 0);
  if (!map) return map.error();
  auto segment = insert(payer, wanted.device, bytes, std::move(*memory));
  segment->descriptor_charge_ = std::move(*descriptor);
  segment->map_charge_ = std::move(*map);
  return segment;
}

SegmentPtr SegmentTable::insert(Payer payer, muster::Device device, std::uint64_t bytes, Charge memory) {
  SegmentPtr segment(new Segment, [this](Segment* ended) { end_in_turn(*ended); });
  segment->id_ = next_id();
  segment->bytes_ = bytes;
  segment->device_ = device;
  segment->owner_ = payer;
  segment->table_ = this;
  segment->bytes_charge_ = std::move(memory);
  segments_.emplace(segment->id_, segment.get());
  return segment;
}

/// Numbers come around after some billions of segments. One that anybody still knows is not given again.
SegmentId SegmentTable::next_id() {
  const auto is_taken = [this](SegmentId id) { return !id || segments_.contains(id) || draining_.contains(id); };
  do ++last_id_;
  while (is_taken({last_id_}));
  return {last_id_};
}

SegmentTable::~SegmentTable() {
  *self_ = nullptr;
  kept_.clear();
  while (!ending_.empty()) static_cast<void>(end_first());
}

/// Ends a segment at once, or later if many end in this turn. One that never had memory takes no time.
void SegmentTable::end_in_turn(Segment& segment) {
  segment.LeasedHook::unlink();
  segment.SparseHook::unlink();
  const bool has_memory = segment.memory_ != nullptr;
  if (has_memory && (left_to_end_ == 0 || !ending_.empty())) return ending_.push_back(segment);
  if (has_memory) left_to_end_ -= std::min(left_to_end_, 1 + segment.readers_.size());
  end(segment);
  delete &segment;
}

/// Ends the first of the segments that wait for it. Returns how much work that was.
std::size_t SegmentTable::end_first() {
  Segment& segment = ending_.front();
  const std::size_t effort = 1 + segment.readers_.size();  // its readers have to be told
  end(segment);
  delete &segment;
  return effort;
}

void SegmentTable::end(Segment& segment) {
  segments_.erase(segment.id_);
  if (!segment.memory_) {
    // Nobody has heard of this segment, so its number serves again. Otherwise vain attempts to get memory could use up
    // all numbers.
    if (segment.id_.value == last_id_) --last_id_;
    return;
  }
  bool is_awaited = false;
  try {
    auto memory = std::make_shared<Charge>(std::move(segment.bytes_charge_));
    if (!segment.readers_.empty() || segment.in_place_) drain(segment, memory);
    is_awaited = segment.in_place_;
    dispose(segment, std::move(memory));
  } catch (const std::bad_alloc&) {
    // Without memory for that, the segment ends at once, and nobody is told. But an owner must not wait for ever.
    if (!segment.in_place_ || is_awaited) return;
    draining_.erase(segment.id_);
    if (hooks_.untold) hooks_.untold(segment.owner_.client);
  }
}

/// Readers are told that the segment has ended. What was left in place stays known until nobody has it open; then its
/// owner is told.
void SegmentTable::drain(Segment& segment, const std::shared_ptr<Charge>& memory) {
  Draining draining{.memory = memory, .readers = {}, .over = {}, .is_open_there = segment.in_place_};
  if (segment.in_place_) draining.over.push_back({segment.id_, segment.owner_.client});
  if (!segment.readers_.empty()) {
    auto& ended = ended_.emplace_back(Ended{segment.id_, {}});
    for (const auto& [reader, charge] : segment.readers_) ended.readers.push_back(reader);
    draining.readers = std::move(segment.readers_);
  }
  draining_.emplace(segment.id_, std::move(draining));
  if (!segment.in_place_) return;
  segment.memory_->when_closed([self = self_, id = segment.id_] {
    if (*self) (*self)->closed_there(id);
  });
}

void SegmentTable::dispose(Segment& segment, std::shared_ptr<Charge> memory) const {
  if (!hooks_.dispose) return;
  if (segment.data_) segment.memory_->close_descriptor(), segment.descriptor_charge_ = {};
  struct Held {
    std::shared_ptr<Charge> memory;
    Charge descriptor;
    Charge map;
  };
  auto held = std::make_shared<Held>(
      Held{std::move(memory), std::move(segment.descriptor_charge_), std::move(segment.map_charge_)});
  hooks_.dispose(segment.owner_.user, {std::move(segment.memory_), nullptr}, [held = std::move(held)] { *held = {}; });
}

void SegmentTable::closed_there(SegmentId id) {
  const auto found = draining_.find(id);
  if (found == draining_.end()) return;
  found->second.is_open_there = false;
  if (end_if_drained(found) && hooks_.over) hooks_.over();
}

bool SegmentTable::end_if_drained(std::unordered_map<SegmentId, Draining>::iterator draining) {
  auto& [memory, readers, over, is_open_there] = draining->second;
  if (!readers.empty() || is_open_there) return false;
  const bool tells = !over.empty();
  over_.splice(over_.end(), over);
  draining_.erase(draining);
  return tells;
}

void SegmentTable::dispose(UserId user, std::shared_ptr<void> description, Charge charge) {
  if (!hooks_.dispose) return;
  const auto shared = std::make_shared<Charge>(std::move(charge));
  hooks_.dispose(user, {nullptr, std::move(description)}, [shared] { shared->reset(); });
}

void SegmentTable::ready(Segment& segment) const {
  segment.data_ = segment.memory_->host().data();
  segment.state_ = Segment::State::ready;
  if (hooks_.mapped && segment.data_) hooks_.mapped(segment.memory_);
}

Result<SegmentPtr> SegmentTable::leased_to(SegmentId id, ClientId client) const {
  auto found = kept_.find(id);
  if (found == kept_.end() || found->second->owner().client != client || !client) return not_yours(id);
  return found->second;
}

Result<SegmentTable::Sealing> SegmentTable::mapped(ClientId client, SegmentId id) {
  auto leased = leased_to(id, client);
  if (!leased) return leased.error();
  const SegmentPtr segment = *leased;
  if (segment->is_in_place()) return Error(Code::invalid, label(id) + " was left in place, so its owner maps nothing");
  if (segment->state_ != Segment::State::leased) return Error(Code::invalid, label(id) + " was mapped before");
  const auto sealed = std::make_shared<Result<void>>(not_done(id));
  Sealing sealing{[memory = segment->memory_.get(), sealed] { *sealed = memory->seal(); },
                  [this, segment, sealed]() -> Result<void> {
                    if (*sealed) ready(*segment);
                    else segment->state_ = Segment::State::leased;
                    return *sealed;
                  }};
  segment->state_ = Segment::State::sealing;
  return sealing;
}

Result<SegmentTable::Sealing> SegmentTable::hard_seal(ClientId client, SegmentId id) {
  auto leased = leased_to(id, client);
  if (!leased) return leased.error();
  const SegmentPtr segment = *leased;
  if (segment->state_ != Segment::State::ready || !segment->hard_requested_)
    return Error(Code::invalid, label(id) + " is not a mapped hard lease");
  const auto sealed = std::make_shared<Result<void>>(not_done(id));
  return Sealing{[memory = segment->memory_.get(), sealed] { *sealed = memory->seal_hard(); },
                 [segment, sealed]() -> Result<void> {
                   if (*sealed) segment->state_ = Segment::State::hard;
                   return *sealed;
                 }};
}

Result<void> SegmentTable::give_back(ClientId client, SegmentId id) {
  auto segment = leased_to(id, client);
  if (!segment) return segment.error();
  constexpr long kept_and_local = 2;
  if (segment->use_count() > kept_and_local)
    return Error(Code::invalid, label(id) + " still holds live objects", "free their refs first");
  (*segment)->readers_.erase(client);
  kept_.erase(id);
  return {};
}

Result<void> SegmentTable::hand_over(ClientId client, SegmentId id) {
  auto segment = leased_to(id, client);
  if (!segment) return segment.error();
  orphan(**segment);
  return {};
}

/// The segment's writer writes no more. The segment ends with the last object in it, perhaps now.
void SegmentTable::orphan(Segment& segment) {
  const SegmentId id = segment.id_;
  segment.readers_.erase(segment.owner_.client);
  segment.orphan_ = true;
  // What was left in place still depends on its owner.
  if (!segment.in_place_) segment.LeasedHook::unlink();
  note_if_sparse(segment);
  kept_.erase(id);
}

Result<SegmentPtr> SegmentTable::book_result(UserId user, std::uint64_t bytes, Turn turn, muster::Device device) {
  auto segment = book({user, {}}, {.bytes = bytes, .device = device}, turn);
  if (segment) kept_.emplace((*segment)->id(), *segment);
  return segment;
}

Result<void> SegmentTable::make_result(const SegmentPtr& segment) {
  if (auto created = create(*segment, SegmentSpec::Writer::daemon); !created) return created;
  ready(*segment);
  return {};
}

void SegmentTable::drop_result(SegmentId id) { kept_.erase(id); }

Result<void> SegmentTable::add_reader(const SegmentPtr& segment, Payer client) {
  if (segment->readers_.contains(client.client)) return {};
  auto& known = clients_[client.client];
  auto charge = ledger_.charge(client, Resource::heap, reader_bytes);
  if (!charge && known.reads_for_nothing.size() >= readers_free) return charge.error();
  auto& reader = segment->readers_[client.client];
  reader.segment = segment->id();
  (charge ? known.reads : known.reads_for_nothing).push_back(reader);
  if (charge) reader.charge = std::move(*charge);
  return {};
}

void SegmentTable::unmapped(ClientId client, SegmentId id) {
  auto found = draining_.find(id);
  if (found == draining_.end()) {
    // The segment may still live, and perhaps end soon.
    if (const auto known = segments_.find(id); known != segments_.end()) known->second->readers_.erase(client);
    return;
  }
  found->second.readers.erase(client);
  end_if_drained(found);
}

std::vector<SegmentTable::Ended> SegmentTable::take_ended() {
  left_to_end_ = drops_of_turn;
  return std::exchange(ended_, {});
}

void SegmentTable::lose_left_by(ClientId client) noexcept {
  if (const auto known = clients_.find(client); known != clients_.end())
    for (const auto& segment : known->second.in_place) segment.memory_->lose_owner();
}

void SegmentTable::drop_client(ClientId client) {
  leaving_.insert(clients_.extract(client));
  drop_more();
}

void SegmentTable::drop_more() {
  std::size_t left = drops_of_turn;
  while (left > 0 && !ending_.empty()) left -= std::min(left, end_first());
  left_to_end_ = left;
  while (left > 0 && !leaving_.empty()) {
    const auto first = leaving_.begin();
    const std::size_t effort = drop_one(first->first, first->second);
    if (effort == 0) leaving_.erase(first);
    left -= std::min(left, effort);
  }
}

std::size_t SegmentTable::drop_one(ClientId id, Client& client) {
  if (!client.leased.empty()) {
    Segment& segment = client.leased.front();
    const std::size_t effort = 1 + segment.readers_.size();  // its readers have to be told
    orphan(segment);
    return effort;
  }
  if (!client.in_place.empty()) {
    Segment& segment = client.in_place.front();
    const std::size_t effort = 1 + segment.readers_.size();
    segment.LeasedHook::unlink();
    orphan(segment);
    return effort;
  }
  for (auto* reads : {&client.reads, &client.reads_for_nothing}) {
    if (reads->empty()) continue;
    const SegmentId segment = reads->front().segment;
    reads->pop_front();
    unmapped(id, segment);
    return 1;
  }
  return 0;
}

SegmentPtr SegmentTable::find(SegmentId id) const {
  auto found = segments_.find(id);
  return found == segments_.end() ? nullptr : found->second->weak_from_this().lock();
}

void SegmentTable::note_if_sparse(Segment& segment) {
  if (!segment.is_sparse()) return;
  ++sparse_changes_;
  if (!segment.SparseHook::is_linked()) sparse_.push_back(segment);
}

SegmentPtr SegmentTable::next_sparse() {
  if (sparse_.empty()) return nullptr;
  sparse_.splice(sparse_.end(), sparse_, sparse_.begin());
  return find(sparse_.back().id());
}

Result<SegmentPtr> SegmentTable::readable(SegmentId id, UserId user) const {
  auto segment = find(id);
  if (!segment || segment->state() < Segment::State::ready)
    return Error(Code::invalid, label(id) + " does not exist, or is not ready for readers");
  if (segment->owner().user != user) return Error(Code::denied, label(id) + " belongs to another user");
  if (segment->is_lost()) return owner_gone(label(id));
  return segment;
}

Result<SegmentPtr> SegmentTable::owned(SegmentId id, ClientId client) const {
  auto segment = leased_to(id, client);
  if (!segment) return segment.error();
  if ((*segment)->state() < Segment::State::ready)
    return Error(Code::invalid, label(id) + " is not sealed against resizing yet", "send Mapped first");
  if ((*segment)->hard_requested() && (*segment)->state() != Segment::State::hard)
    return Error(Code::invalid, label(id) + " is a hard lease that is not sealed yet", "send HardSeal first");
  return segment;
}

Error owner_gone(const std::string& what) {
  return Error(Code::object_lost,
               what + " is lost: it was left in place, and its owner has ended, or a new worker could not open it",
               "what is to outlive its owner has to be copied into the store: put() without in_place");
}

std::size_t SegmentTable::holders_of(const SegmentPtr& segment) const {
  const long of_table = kept_.contains(segment->id()) ? 1 : 0;
  const long of_pool = segment->owner().client ? 0 : 1;
  return static_cast<std::size_t>(segment.use_count() - of_table - of_pool);
}

}  // namespace musterd
