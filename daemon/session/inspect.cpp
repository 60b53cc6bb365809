// What the node tells about itself: status and lists. Reads, never steers.
#include <algorithm>

#include "collective/engine.hpp"
#include "session/frame_builder.hpp"
#include "session/node.hpp"

namespace musterd {

namespace {

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

/// Far below what a frame may have: building one holds everybody up, a row of a list may have many holders or seats,
/// and what is not read at once is charged to who asked.
bool is_long(const flatbuffers::FlatBufferBuilder& fbb) {
  constexpr std::size_t list_bytes_max = 1 << 20;
  return fbb.GetSize() > list_bytes_max;
}

std::size_t index(Resource resource) { return static_cast<std::size_t>(resource); }

}  // namespace

/// What may be told to all seats of an op: those of an open group have no user in common.
std::optional<UserId> Node::seen_by_all(const Running& running) const {
  constexpr UserId nobody = ~UserId{0};
  const bool open = running.group && running.group->group.settings().open;
  return open ? nobody : clients_.view_of(running.user);
}

void Node::status(ClientId id, std::uint64_t request, TimePoint now) {
  FrameBuilder out(request);
  auto& fbb = out.fbb;
  std::vector<flatbuffers::Offset<wire::Account>> users;
  const auto only = clients_.sees_only(id);
  for (const auto user : ledger_.users()) {
    if (user != only.value_or(user)) continue;
    const auto account = ledger_.user(user);
    users.push_back(wire::CreateAccount(fbb, fbb.CreateString("uid " + std::to_string(user)),
                                        account.used[index(Resource::memory)], account.memory_peak,
                                        account.used[index(Resource::objects)], account.used[index(Resource::fds)],
                                        account.used[index(Resource::slots)]));
  }
  const auto version = fbb.CreateString(settings_.version);
  const auto socket = fbb.CreateString(settings_.socket);
  const auto log = fbb.CreateString(settings_.log);
  const auto simd = fbb.CreateString(Engine::instruction_set());
  const auto huge_pages = fbb.CreateString(settings_.huge_pages);
  const auto user_list = fbb.CreateVector(users);
  wire::StatusReplyBuilder reply(fbb);
  reply.add_version(version);
  reply.add_incarnation(settings_.incarnation);
  reply.add_pid(settings_.pid);
  reply.add_uptime_s(seconds(now - started_));
  reply.add_socket(socket);
  reply.add_memory_bytes(settings_.quota.total[index(Resource::memory)]);
  reply.add_memory_used_bytes(ledger_.total().used[index(Resource::memory)]);
  reply.add_memory_peak_bytes(ledger_.total().memory_peak);
  reply.add_clients(static_cast<std::uint32_t>(clients_.all().size()));
  reply.add_groups(static_cast<std::uint32_t>(groups_.size()));
  reply.add_objects(store_.size());
  reply.add_segments(static_cast<std::uint32_t>(segments_.size()));
  reply.add_ops_done(ops_done_);
  reply.add_ops_failed(ops_failed_);
  reply.add_ops_in_flight(works_.size());
  reply.add_bytes_deposited(store_.totals().bytes_deposited);
  reply.add_bytes_copied(store_.totals().bytes_copied);
  reply.add_bytes_reduced(bytes_reduced_);
  reply.add_lanes(settings_.lanes);
  reply.add_simd(simd);
  reply.add_huge_pages(huge_pages);
  reply.add_waiting_for_memory(static_cast<std::uint32_t>(admission_.waiting()));
  reply.add_users(user_list);
  reply.add_log(log);
  reply.add_heap_bytes(settings_.quota.total[index(Resource::heap)]);
  reply.add_heap_used_bytes(ledger_.total().used[index(Resource::heap)]);
  teller_.reply(id, out.finish(wire::Body_StatusReply, reply.Finish().Union()), {});
}

void Node::list_objects(ClientId id, std::uint64_t request, std::size_t limit, TimePoint now) {
  constexpr std::size_t limit_max = 10'000;
  const std::size_t rows_max = std::min(limit == 0 ? limit_max : limit, limit_max);
  const auto only = clients_.sees_only(id);
  FrameBuilder out(request);
  auto& fbb = out.fbb;
  std::vector<flatbuffers::Offset<wire::ObjectInfo>> infos;
  bool all = true;
  store_.list(only, now, [&](const Store::Listed& listed) {
    if (infos.size() >= rows_max || is_long(fbb)) return all = false;
    const auto& object = *listed.object;
    const auto& manifest = object.manifest;
    const bool plain = manifest.leaves.size() == 1;
    const auto shape = plain ? manifest.shape(manifest.leaves.front()) : std::span<const std::int64_t>{};
    const auto dtype = plain ? std::string(name(manifest.leaves.front().dtype)) : "bundle";
    const Client* maker = clients_.known(object.maker);
    const bool shows_pid = maker && (!only || maker->credentials.user == *only);
    infos.push_back(wire::CreateObjectInfo(
        fbb, object.id.value, object.bytes, static_cast<std::uint32_t>(manifest.leaves.size()), fbb.CreateString(dtype),
        fbb.CreateVector(shape.data(), shape.size()), fbb.CreateString("cpu"),
        fbb.CreateString(clients_.label(object.maker, only)), shows_pid ? maker->credentials.pid : 0,
        fbb.CreateVectorOfStrings(holders_text(listed.holders, only)),
        static_cast<std::uint32_t>(std::max(0L, listed.in_ops)), seconds(listed.pinned), seconds(now - object.made),
        store_.pinned_bytes(object)));
    return true;
  });
  const std::uint64_t total = all     ? infos.size()
                              : !only ? store_.size()
                                      : ledger_.user(*only).used[index(Resource::objects)];
  auto body = wire::CreateObjects(fbb, fbb.CreateVector(infos), total);
  teller_.reply(id, out.finish(wire::Body_Objects, body.Union()), {});
}

/// The first of them: an object may have thousands.
std::vector<std::string> Node::holders_text(const Holders& holders, std::optional<UserId> seen_by) const {
  constexpr std::size_t named_max = 16;
  const std::size_t named = std::min(holders.size(), named_max);
  std::vector<std::string> texts;
  for (const auto& holder : holders) {
    if (texts.size() == named) break;
    texts.push_back(clients_.label(holder.client, seen_by) +
                    (holder.holds > 1 ? " x" + std::to_string(holder.holds) : ""));
  }
  if (holders.size() > named) texts.push_back("and " + std::to_string(holders.size() - named) + " more");
  return texts;
}

/// Of a user: its own, and the open ones in which a process of its sits. Not more than a list may show.
std::vector<const GroupState*> Node::groups_seen(std::optional<UserId> seen_by) const {
  constexpr std::size_t looks_max = std::size_t{1} << 16;
  std::vector<const GroupState*> seen;
  std::size_t looks = 0;
  const auto sits_in = [&](const GroupState& state) {
    const auto& seats = state.group.seats();
    return std::any_of(seats.begin(), seats.end(), [&](const auto& seat) {
      const Client* client = ++looks < looks_max ? clients_.find(seat.second.client) : nullptr;
      return client && client->credentials.user == *seen_by;
    });
  };
  for (auto entry = groups_.begin(); entry != groups_.end() && ++looks < looks_max;) {
    const auto& [key, state] = *entry;
    if (seen_by && !key.open && key.user < *seen_by) {
      entry = groups_.lower_bound({key.open, key.made, *seen_by, {}});
      continue;
    }
    if (seen_by && !key.open && key.user > *seen_by) {
      entry = groups_.lower_bound({key.made, !key.made, 0, {}});
      continue;
    }
    if (!seen_by || !key.open || state->group.settings().user == *seen_by || sits_in(*state))
      seen.push_back(state.get());
    ++entry;
  }
  return seen;
}

void Node::list_groups(ClientId id, std::uint64_t request) {
  const auto only = clients_.sees_only(id);
  FrameBuilder out(request);
  auto& fbb = out.fbb;
  std::vector<flatbuffers::Offset<wire::GroupInfo>> infos;
  const auto seen = groups_seen(only);
  for (const GroupState* state : seen) {
    if (is_long(fbb)) break;
    const auto& group = state->group;
    const auto lost = group.lost();
    std::vector<flatbuffers::Offset<wire::SeatInfo>> seats;
    for (int rank = 0; rank < group.settings().world_size; ++rank) {
      const auto seat = group.seats().find(rank);
      const Client* client = seat == group.seats().end() ? nullptr : clients_.known(seat->second.client);
      const bool held = client != nullptr;
      const char* what = held                                                      ? "held"
                         : std::find(lost.begin(), lost.end(), rank) != lost.end() ? "lost"
                         : group.newcomers().contains(rank)                        ? "newcomer"
                         : group.is_member(rank)                                   ? "awaited"
                                                                                   : "absent";
      // Members learn each other's processes from every loss.
      seats.push_back(wire::CreateSeatInfo(fbb, rank, fbb.CreateString(held ? clients_.label(client->id, only) : ""),
                                           held ? client->credentials.pid : 0, fbb.CreateString(what),
                                           state->muster->position(rank)));
    }
    const bool failed = !lost.empty() && group.settings().on_loss == muster::OnLoss::fail;
    const auto timeout_ms = std::chrono::duration_cast<std::chrono::milliseconds>(group.settings().timeout).count();
    infos.push_back(
        wire::CreateGroupInfo(fbb, fbb.CreateString(group.settings().name), group.epoch(), group.settings().world_size,
                              fbb.CreateString(std::string(name(group.settings().on_loss))),
                              static_cast<std::uint32_t>(timeout_ms), fbb.CreateString(failed ? "failed" : "ok"),
                              fbb.CreateVector(seats), state->ops_done, state->ops_failed, state->muster->in_flight()));
  }
  const auto total = static_cast<std::uint32_t>(only ? seen.size() : groups_.size());
  auto body = wire::CreateGroups(fbb, fbb.CreateVector(infos), total);
  teller_.reply(id, out.finish(wire::Body_Groups, body.Union()), {});
}

void Node::list_clients(ClientId id, std::uint64_t request, TimePoint now) {
  FrameBuilder out(request);
  auto& fbb = out.fbb;
  std::vector<flatbuffers::Offset<wire::ClientInfo>> infos;
  const auto only = clients_.sees_only(id);
  std::uint32_t total = 0;
  for (const auto& [client_id, client] : clients_.all()) {
    if (only && client.credentials.user != *only) continue;
    ++total;
    if (is_long(fbb)) continue;
    const auto account = ledger_.client(client_id);
    infos.push_back(wire::CreateClientInfo(
        fbb, client_id.value, fbb.CreateString(client.name), client.credentials.pid, client.credentials.user,
        account.used[index(Resource::memory)], account.used[index(Resource::objects)], store_.held_by(client_id),
        account.used[index(Resource::slots)], seconds(now - client.last_heard), account.used[index(Resource::heap)]));
  }
  auto body = wire::CreateClients(fbb, fbb.CreateVector(infos), total);
  teller_.reply(id, out.finish(wire::Body_Clients, body.Union()), {});
}

}  // namespace musterd
