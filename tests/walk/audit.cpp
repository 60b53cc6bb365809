#include "walk/audit.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <set>

namespace musterd {

namespace {

constexpr std::size_t index(Resource resource) { return static_cast<std::size_t>(resource); }

std::uint64_t heap_of(const HistoryTable& table) {
  std::uint64_t heap = table.heap.amount();
  for (const auto& [key, remembered] : table.ops) heap += remembered.heap.amount();
  return heap;
}

std::string name_of(std::size_t resource) {
  constexpr const char* names[]{"memory", "objects", "fds", "slots", "groups", "heap", "maps"};
  static_assert(std::size(names) == host_resource_count);
  if (resource < host_resource_count) return names[resource];
  if (resource == index(Resource::in_place)) return "allocations left in place";
  return "memory of GPU " + std::to_string(resource - host_resource_count);
}

}  // namespace

/// Returns each group that anything keeps alive, once.
std::vector<GroupPtr> NodeAudit::groups() const {
  std::set<GroupPtr> found;
  const auto add = [&](const GroupPtr& group) {
    if (group) found.insert(group);
  };
  for (const auto& [key, group] : node_.groups_.all()) add(group);
  for (const auto& [ticket, pending] : node_.works_.pending_) add(pending.group);
  for (const auto& [key, running] : node_.runs_.running_) add(running.group);
  for (const auto& [id, client] : node_.clients_.all())
    for (const auto& [seat, seated] : client.seats) add(seated.group);
  for (const auto& leaving : node_.group_ops_.leaving_)
    for (const auto& [seat, seated] : leaving.seats) add(seated.group);
  for (const auto& unsettled : node_.group_ops_.unsettled_) add(unsettled.group);
  for (const auto& entry : node_.group_ops_.undecided_.waiting_) add(entry.item.group);
  return {found.begin(), found.end()};
}

std::size_t NodeAudit::ops_in_groups() const {
  std::size_t ops = 0;
  for (const auto& group : groups()) ops += group->muster->in_flight();
  return ops;
}

Amounts NodeAudit::held() const {
  Amounts sum;
  auto& memory = sum[index(Resource::memory)];
  auto& fds = sum[index(Resource::fds)];
  auto& heap = sum[index(Resource::heap)];
  auto& maps = sum[index(Resource::maps)];
  for (const auto& [id, client] : node_.clients_.all()) {
    memory += client.rings.memory.amount();
    maps += client.rings.map.amount();
    fds += client.descriptors.amount();
    heap += client.descriptors.heap();
    for (const auto& [seat, seated] : client.seats) heap += seated.charge.amount();
  }
  for (const auto& leaving : node_.group_ops_.leaving_)
    for (const auto& [seat, seated] : leaving.seats) heap += seated.charge.amount();
  for (const auto& [id, segment] : node_.segments_.segments_) {
    heap += SegmentTable::segment_heap_bytes;
    if (segment->is_in_place()) {
      ++sum[index(Resource::in_place)];
      for (const auto& [client, reader] : segment->readers_) heap += reader.charge.amount();
      continue;
    }
    sum[memory_of(segment->device())] += segment->bytes();
    ++fds;
    maps += segment->device().is_host() ? 1U : 0U;
    for (const auto& [client, reader] : segment->readers_) heap += reader.charge.amount();
  }
  for (const auto& [id, draining] : node_.segments_.draining_) {
    sum[index(draining.memory->resource())] += draining.memory->amount();
    heap += draining.memory->heap();
    for (const auto& [client, reader] : draining.readers) heap += reader.charge.amount();
  }
  node_.store_.list(std::nullopt, [&](const Store::Listed& listed) {
    memory += listed.object->metadata.amount();
    if (listed.object->moved) {
      const auto amount = listed.object->moved->charge.amount();
      (amount > metadata_in_heap_max ? memory : heap) += amount;
    }
    sum[index(Resource::objects)] += listed.object->slot.amount();
    heap += listed.object->slot.heap();
    return true;
  });
  std::set<FamilyPtr> families;
  for (const auto& [client, family] : node_.store_.holds().families_) families.insert(family);
  for (const auto& dropping : node_.store_.holds().dropping_) families.insert(dropping.family);
  for (const auto& family : families) heap += family->charge_.amount();
  const Tokens& tokens = node_.store_.tokens();
  for (const auto& [opener, opened] : tokens.openers_)
    for (const auto& token : opened) heap += token.charge.amount();
  for (const auto& token : tokens.ended_) heap += token.charge.amount();
  for (const auto& [heir, line] : node_.clients_.lifelines_) {
    fds += line.descriptor.amount();
    heap += line.descriptor.heap();
  }
  const auto add = [&](const Charge& charge) {
    if (charge.heap() > 0) sum[index(Resource::slots)] += charge.amount();
    heap += charge.heap() > 0 ? charge.heap() : charge.amount();
  };
  for (const auto& waiting : node_.requests_.waiting_) add(waiting.charge);
  const auto add_all = [&](const auto& contributions) {
    for (const auto& contribution : contributions) add(contribution.charge);
  };
  for (const auto& [key, running] : node_.runs_.running_) {
    heap += running.heap.amount();
    add_all(running.op->contributions);
  }
  for (const auto& entry : node_.group_ops_.undecided_.waiting_)
    if (entry.item.op) add_all(entry.item.op->contributions);
  for (const auto& giving : node_.giver_.giving_) {
    heap += giving.over.mapped().heap.amount();
    add_all(giving.over.mapped().op->contributions);
  }
  const auto add_ops = [&](const Muster& muster) {
    for_each_op(muster, [&](const PendingOp& op) {
      add(op.charge);
      if (op.op) add_all(op.op->contributions);
    });
    for (const auto& [sequence, row] : muster.codes_.rows()) add(row.charge);
  };
  for (const auto& unsettled : node_.group_ops_.unsettled_) {
    if (unsettled.ended) add_ops(*unsettled.ended);
    add_all(unsettled.withdrawn);
  }
  for (const auto& group : groups()) {
    sum[index(Resource::groups)] += group->charge.amount();
    heap += group->charge.heap();
    for (const auto* waiting : {&group->early, &group->coming})
      for (const auto& [rank, queue] : *waiting) add_all(queue.ops);
    add_ops(*group->muster);
    for (const auto& [rank, charge] : group->lost) heap += charge.amount();
    if (group->history) heap += heap_of(*group->history);
  }
  for (const auto& table : node_.history_.ended_) heap += heap_of(table);
  return sum;
}

/// Every object is where its manifest says, and clients' segments know their objects.
void NodeAudit::check_places(std::vector<std::string>& found) const {
  std::map<SegmentId, std::pair<std::size_t, std::uint64_t>> live;
  node_.store_.list(std::nullopt, [&](const Store::Listed& listed) {
    const Object& object = *listed.object;
    std::map<SegmentId, std::uint64_t> bytes;
    for (std::size_t i = 0; i < object.manifest.leaves.size(); ++i) {
      const auto& leaf = object.manifest.leaves[i];
      if (leaf.bytes() == 0) continue;
      bytes[leaf.segment] += leaf.bytes();
      const auto segment = node_.segments_.find(leaf.segment);
      if (!segment || object.memories[i] != segment->memory().get())
        found.push_back("object " + std::to_string(object.id.value) + " does not lie where its manifest says");
    }
    if (object.parent) return true;
    for (const auto& [segment, amount] : bytes) {
      ++live[segment].first;
      live[segment].second += amount;
    }
    return true;
  });
  std::uint64_t beside = 0;
  for (const auto& [id, segment] : node_.segments_.segments_) {
    if (!segment->owner().client) continue;
    const auto& [objects, bytes] = live[id];
    if (objects > 0 && bytes < segment->bytes() && !segment->is_in_place()) beside += segment->bytes() - bytes;
    if (live[id] != std::pair(segment->live_objects(), segment->live_bytes()))
      found.push_back("segment " + std::to_string(id.value) + " does not know what lies in it");
  }
  if (beside != node_.segments_.bytes_beside_objects())
    found.push_back("the segments have " + std::to_string(beside) + " bytes beside objects, not " +
                    std::to_string(node_.segments_.bytes_beside_objects()));
}

/// A client's lists contain exactly what it leases and reads.
void NodeAudit::check_lists(std::vector<std::string>& found) const {
  const SegmentTable& table = node_.segments_;
  std::map<ClientId, std::pair<std::multiset<SegmentId>, std::multiset<SegmentId>>> there;
  for (const auto& [id, segment] : table.kept_)
    if (segment->owner().client && !segment->is_in_place()) there[segment->owner().client].first.insert(id);
  const auto add = [&](SegmentId segment, const SegmentReaders& readers) {
    for (const auto& [client, reader] : readers) there[client].second.insert(segment);
  };
  for (const auto& [id, segment] : table.segments_) add(id, segment->readers_);
  for (const auto& [id, draining] : table.draining_) add(id, draining.readers);
  decltype(there) listed;
  for (const auto* clients : {&table.clients_, &table.leaving_})
    for (const auto& [id, client] : *clients) {
      for (const auto& segment : client.leased) listed[id].first.insert(segment.id());
      for (const auto* reads : {&client.reads, &client.reads_for_nothing})
        for (const auto& reader : *reads) listed[id].second.insert(reader.segment);
    }
  std::erase_if(listed, [](const auto& entry) { return entry.second == decltype(entry.second){}; });
  if (there != listed) found.emplace_back("a client's lists of segments are not what it leases and reads");
}

/// A muster finds exactly the ops that gather, by deadline and by handle, and knows what ranks owe.
void NodeAudit::check_orders(const Muster& muster, std::vector<std::string>& found) {
  std::size_t gathering = 0;
  const GatheringOps& known = muster.ops_.gathering_;
  std::vector<std::size_t> owed_bytes(static_cast<std::size_t>(muster.members_.world_size()));
  for_each_op(muster, [&](const PendingOp& op) {
    if (!op.gathering()) return;
    ++gathering;
    if (known.find(op.handle()) != &op) found.push_back("a handle does not find its op");
    if (muster.next_deadline() > op.deadline) found.push_back("a deadline is earlier than the next one");
    for (std::size_t rank = 0; rank < owed_bytes.size(); ++rank)
      if (op.owes(static_cast<int>(rank), muster.position(static_cast<int>(rank))) > 0)
        owed_bytes[rank] += op.name_bytes();
  });
  if (gathering != known.size() || gathering != known.by_deadline_.size() || gathering != known.by_handle_.size())
    found.push_back(std::to_string(gathering) + " ops gather, and others are known");
  for (std::size_t rank = 0; rank < owed_bytes.size(); ++rank)
    if (muster.owed_bytes(static_cast<int>(rank)) != owed_bytes[rank])
      found.push_back("a group does not know what rank " + std::to_string(rank) + " owes");
}

/// No client has room reserved for holds that no op gives any more.
void NodeAudit::check_reservations(std::vector<std::string>& found) const {
  if (!node_.giver_.giving_.empty()) return;
  for (const auto& [client, family] : node_.store_.holds().families_)
    if (family->reserved() > 0) found.push_back("client " + std::to_string(client.value) + " has holds reserved");
}

std::vector<std::string> NodeAudit::contradictions() const {
  std::vector<std::string> found;
  check_places(found);
  check_lists(found);
  check_reservations(found);
  const Amounts sum = held();
  const Amounts ledger = charged();
  const auto users = node_.ledger_.largest_users(node_.ledger_.users());
  for (std::size_t i = 0; i < resource_count; ++i) {
    std::uint64_t of_users = 0;
    for (const auto& each : users) of_users += each.account.used[i];
    if (sum[i] == ledger[i] && of_users == ledger[i]) continue;
    found.push_back("the ledger says " + std::to_string(ledger[i]) + " of " + name_of(i) + ", its users' sum is " +
                    std::to_string(of_users) + ", and " + std::to_string(sum[i]) + " are held");
  }
  for (const auto& [id, client] : node_.clients_.all())
    for (const auto& [seat, seated] : client.seats) {
      const auto& group = seated.group->group;
      const auto in = [&, seat = seat, id = id, rank = seated.rank](const std::map<int, Seat>& seats) {
        const auto there = seats.find(rank);
        return there != seats.end() && there->second.id == seat && there->second.client == id;
      };
      if (!in(group.seats()) && !in(group.newcomers()))
        found.push_back("seat " + std::to_string(seat.value) + " of client " + std::to_string(id.value) +
                        " is not one of its group's");
      const auto known = node_.groups_.all().find(key_of(group.settings()));
      if (known == node_.groups_.all().end() || known->second != seated.group)
        found.push_back("group '" + group.settings().name + "' has seats and is not among the groups");
    }
  for (const auto& [key, state] : node_.groups_.all()) check_orders(*state->muster, found);
  for (const auto& [key, state] : node_.groups_.all())
    for_each_op(*state->muster, [&, &key = key](const PendingOp& op) {
      if (op.failure && !node_.stopping_ && op.charge.amount() < op.remembered_bytes)
        found.push_back("group '" + std::string(key.name) + "' remembers a failure in " +
                        std::to_string(op.remembered_bytes) + " bytes, of which " + std::to_string(op.charge.amount()) +
                        " are charged");
    });
  for (const auto& [key, state] : node_.groups_.all())
    if (state->group.empty()) found.push_back("group '" + std::string(key.name) + "' has no seat and is kept");
  return found;
}

bool NodeAudit::memory_waits_unnoticed() const { return node_.admission_.waiting() > 0 && node_.pressure_.has_news(); }

std::vector<std::string> NodeAudit::left_over() const {
  auto found = contradictions();
  const auto count = [&](const std::string& what, std::size_t number) {
    if (number > 0) found.push_back(std::to_string(number) + " " + what);
  };
  count("clients", node_.clients_.all().size());
  for (const auto& state : groups()) found.push_back("group '" + state->group.settings().name + "'");
  count("pending entries", node_.works_.size());
  count("running ops", node_.runs_.running_.size());
  count("undecided ops and epochs", node_.group_ops_.undecided_.waiting_.size());
  count("ops that are being given", node_.giver_.giving_.size());
  count("groups with ops to settle", node_.group_ops_.unsettled_.size() + node_.group_ops_.unsettled_groups_.size());
  count("clients' seats that are being lost", node_.group_ops_.leaving_.size());
  count("groups with members to tell", node_.group_ops_.news_.untold_.size());
  count("life lines", node_.clients_.lifelines_.size());
  count("objects", node_.store_.size());
  count("segments", node_.segments_.size() + node_.segments_.draining_.size());
  count("clients that have had segments", node_.segments_.clients_.size() + node_.segments_.leaving_.size());
  count("requests that wait for memory", node_.admission_.waiting());
  const Amounts ledger = charged();
  for (std::size_t i = 0; i < resource_count; ++i) count(name_of(i), ledger[i]);
  return found;
}

NodeAudit::SeatView NodeAudit::seat(ClientId client, SeatId seat) const {
  const auto& seated = node_.clients_.all().at(client).seats.at(seat);
  const auto& state = seated.group;
  const auto& group = state->group;
  return {state,         group.settings().name,   seated.rank,          group.settings().world_size,
          group.epoch(), group.is_newcomer(seat), group.seats().size(), group.newcomers().size()};
}

std::vector<SeatId> NodeAudit::seats_of(ClientId client) const {
  std::vector<SeatId> seats;
  if (const Client* found = node_.clients_.known(client))
    for (const auto& [seat, seated] : found->seats) seats.push_back(seat);
  std::sort(seats.begin(), seats.end());
  return seats;
}

bool NodeAudit::is_undecided(ClientId client, WorkId work) const {
  for (const auto& entry : node_.group_ops_.undecided_.waiting_) {
    if (!entry.item.op) continue;
    for (const auto& contribution : entry.item.op->contributions) {
      const Pending* pending = node_.works_.find(contribution.ticket);
      if (pending && pending->client == client && pending->work == work) return true;
    }
  }
  return false;
}

ObjectPtr NodeAudit::held_object(ClientId client, ObjectId object) const {
  const Hold* hold = node_.store_.holds().find(client, object);
  return hold ? hold->entry.strong : nullptr;
}

}  // namespace musterd
