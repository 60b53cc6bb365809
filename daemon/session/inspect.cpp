#include "session/inspect.hpp"

#include <algorithm>
#include <variant>

#include <fmt/format.h>

#include <muster/types.hpp>

#include "collective/host_lane.hpp"
#include "session/frame_builder.hpp"

namespace musterd {

namespace {

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

/// Whether a list is long enough. The limit is far below that of a frame: building a frame makes everybody wait, a row
/// may have many holders or seats, and the client is charged for what it does not read at once.
bool is_long(const flatbuffers::FlatBufferBuilder& fbb) {
  constexpr std::size_t list_bytes_max = 1 << 20;
  return fbb.GetSize() > list_bytes_max;
}

/// Where its arrays lie, by the first of them: it may have thousands.
std::string device_text(const muster::ipc::Manifest& manifest) {
  return name(manifest.leaves.empty() ? muster::Device::cpu() : manifest.leaves.front().device);
}

}  // namespace

Inspect::Frame Inspect::status(std::uint64_t request, std::optional<UserId> only, TimePoint started,
                               TimePoint now) const {
  FrameBuilder out(request);
  auto& fbb = out.fbb;
  std::vector<flatbuffers::Offset<wire::Account>> users;
  for (const auto& [user, account] : users_seen(only)) {
    users.push_back(wire::CreateAccount(fbb, fbb.CreateString(fmt::format("uid {}", user)),
                                        account.used[Resource::memory], account.memory_peak,
                                        account.used[Resource::objects], account.used[Resource::fds],
                                        account.used[Resource::slots], account.used[Resource::maps]));
  }
  std::vector<flatbuffers::Offset<wire::GpuAccount>> gpus;
  for (const auto device : parts_.segments.devices()) {
    if (device.is_host()) continue;
    const Resource memory = memory_of(device);
    gpus.push_back(wire::CreateGpuAccount(fbb, fbb.CreateString(name(device)), parts_.settings.quota.total[memory],
                                          parts_.ledger.total().used[memory],
                                          parts_.segments.backings().find(device)->backing->work_bytes()));
  }
  const auto version = fbb.CreateString(parts_.settings.version);
  const auto socket = fbb.CreateString(parts_.settings.socket);
  const auto log = fbb.CreateString(parts_.settings.log);
  const auto simd = fbb.CreateString(HostLane::instruction_set());
  const auto huge_pages = fbb.CreateString(parts_.settings.huge_pages);
  const auto nccl_so = fbb.CreateString(parts_.settings.nccl_so);
  const auto nccl_wheel = fbb.CreateString(parts_.settings.nccl_wheel);
  const auto user_list = fbb.CreateVector(users);
  const auto gpu_list = fbb.CreateVector(gpus);
  wire::StatusReplyBuilder reply(fbb);
  reply.add_version(version);
  reply.add_incarnation(parts_.settings.incarnation);
  reply.add_pid(parts_.settings.pid);
  reply.add_uptime_s(seconds(now - started));
  reply.add_socket(socket);
  reply.add_memory_bytes(parts_.settings.quota.total[Resource::memory]);
  reply.add_memory_used_bytes(parts_.ledger.total().used[Resource::memory]);
  reply.add_memory_peak_bytes(parts_.ledger.total().memory_peak);
  reply.add_clients(static_cast<std::uint32_t>(parts_.clients.all().size()));
  reply.add_groups(static_cast<std::uint32_t>(parts_.groups.size()));
  reply.add_objects(parts_.store.size());
  reply.add_segments(static_cast<std::uint32_t>(parts_.segments.size()));
  reply.add_ops_done(parts_.counts.ops_done);
  reply.add_ops_failed(parts_.counts.ops_failed);
  reply.add_ops_in_flight(parts_.works.size());
  reply.add_bytes_deposited(parts_.store.totals().bytes_deposited);
  reply.add_bytes_copied(parts_.store.totals().bytes_copied);
  reply.add_bytes_reduced(parts_.counts.bytes_reduced);
  reply.add_lanes(parts_.settings.lanes);
  reply.add_simd(simd);
  reply.add_huge_pages(huge_pages);
  reply.add_waiting_for_memory(static_cast<std::uint32_t>(parts_.admission.waiting()));
  reply.add_users(user_list);
  reply.add_gpus(gpu_list);
  reply.add_log(log);
  reply.add_heap_bytes(parts_.settings.quota.total[Resource::heap]);
  reply.add_heap_used_bytes(parts_.ledger.total().used[Resource::heap]);
  reply.add_users_total(static_cast<std::uint32_t>(only ? users.size() : parts_.ledger.users()));
  reply.add_maps_max(parts_.settings.quota.total[Resource::maps]);
  reply.add_maps_used(parts_.ledger.total().used[Resource::maps]);
  reply.add_in_place(parts_.ledger.total().used[Resource::in_place]);
  reply.add_in_place_max(parts_.settings.quota.total[Resource::in_place]);
  reply.add_nccl_so(nccl_so);
  reply.add_nccl_wheel(nccl_wheel);
  return out.finish(wire::Body_StatusReply, reply.Finish().Union());
}

/// Of all users, the ones that hold most, as there may be tens of thousands.
std::vector<Ledger::OfUser> Inspect::users_seen(std::optional<UserId> seen_by) const {
  constexpr std::size_t shown_max = 100;
  if (!seen_by) return parts_.ledger.largest_users(shown_max);
  const auto own = parts_.ledger.user(*seen_by);
  if (own.used == Amounts{}) return {};
  return {{*seen_by, own}};
}

Inspect::Frame Inspect::objects(std::uint64_t request, std::optional<UserId> only, std::size_t limit,
                                TimePoint now) const {
  constexpr std::size_t limit_max = 10'000;
  const std::size_t rows_max = std::min(limit == 0 ? limit_max : limit, limit_max);
  FrameBuilder out(request);
  auto& fbb = out.fbb;
  std::vector<flatbuffers::Offset<wire::ObjectInfo>> infos;
  bool all = true;
  parts_.store.list(only, [&](const Store::Listed& listed) {
    if (infos.size() >= rows_max || is_long(fbb)) return all = false;
    const auto& object = *listed.object;
    const auto& manifest = object.manifest;
    const bool plain = manifest.leaves.size() == 1;
    const auto shape = plain ? manifest.shape(manifest.leaves.front()) : std::span<const std::int64_t>{};
    const auto dtype = plain ? std::string(name(manifest.leaves.front().dtype)) : "bundle";
    const Client* maker = parts_.clients.known(object.maker);
    const bool shows_pid = maker && (!only || maker->credentials.user == *only);
    const auto kept = kept_by(listed.holders, only, now);
    infos.push_back(wire::CreateObjectInfo(
        fbb, object.id.value, object.bytes, static_cast<std::uint32_t>(manifest.leaves.size()), fbb.CreateString(dtype),
        fbb.CreateVector(shape.data(), shape.size()), fbb.CreateString(device_text(manifest)),
        fbb.CreateString(parts_.clients.label(object.maker, only)), shows_pid ? maker->credentials.pid : 0,
        fbb.CreateVectorOfStrings(kept.texts), static_cast<std::uint32_t>(std::max(0L, listed.in_ops)),
        seconds(kept.pinned), seconds(now - object.made), parts_.store.pinned_bytes(object), object.in_place,
        is_lost(object)));
    return true;
  });
  const std::uint64_t total = all     ? infos.size()
                              : !only ? parts_.store.size()
                                      : parts_.ledger.user(*only).used[Resource::objects];
  auto body = wire::CreateObjects(fbb, fbb.CreateVector(infos), total);
  return out.finish(wire::Body_Objects, body.Union());
}

/// Names the first few holds, as an object may have thousands, and the histories.
Inspect::Kept Inspect::kept_by(const Holders& holders, std::optional<UserId> seen_by, TimePoint now) const {
  constexpr std::size_t named_max = 16;
  struct Show {
    const Clients& clients;
    std::optional<UserId> seen_by;
    const Holder& holder;
    Kept& kept;
    void operator()(const Holder::Client& client) const {
      const std::string times = holder.count > 1 ? fmt::format(" x{}", holder.count) : "";
      kept.texts.push_back(clients.label(client.id, seen_by) + times);
    }
    void operator()(const Holder::LifeLine& line) const { kept.texts.push_back(clients.label(line.id, seen_by)); }
    void operator()(const Holder::PickleLease&) const { kept.pinned = holder.left; }
    void operator()(const Holder::Token& token) const { kept.texts.push_back(fmt::format("token '{}'", token.name)); }
    void operator()(const Holder::History&) const {
      kept.texts.push_back(fmt::format("history of {} {}", holder.count, holder.count > 1 ? "ops" : "op"));
    }
  };
  Kept kept;
  for (const Holder& holder : holders.first(named_max, now))
    std::visit(Show{parts_.clients, seen_by, holder, kept}, holder.by);
  if (const std::size_t holds = holders.holds.size(); holds > named_max)
    kept.texts.insert(kept.texts.begin() + named_max, fmt::format("and {} more", holds - named_max));
  return kept;
}

/// The groups that a user may see: its own, and open ones in which one of its processes has a seat. Not more than a
/// list may show.
std::vector<const GroupState*> Inspect::groups_seen(std::optional<UserId> seen_by) const {
  constexpr std::size_t looks_max = std::size_t{1} << 16;
  std::vector<const GroupState*> seen;
  std::size_t looks = 0;
  const auto sits_in = [&](const GroupState& state) {
    const auto& seats = state.group.seats();
    return std::any_of(seats.begin(), seats.end(), [&](const auto& seat) {
      const Client* client = ++looks < looks_max ? parts_.clients.find(seat.second.client) : nullptr;
      return client && client->credentials.user == *seen_by;
    });
  };
  for (auto entry = parts_.groups.begin(); entry != parts_.groups.end() && ++looks < looks_max;) {
    const auto& [key, state] = *entry;
    if (seen_by && !key.open && key.user < *seen_by) {
      entry = parts_.groups.lower_bound({key.open, key.made, *seen_by, {}});
      continue;
    }
    if (seen_by && !key.open && key.user > *seen_by) {
      entry = parts_.groups.lower_bound({key.made, !key.made, 0, {}});
      continue;
    }
    if (!seen_by || !key.open || state->group.settings().user == *seen_by || sits_in(*state))
      seen.push_back(state.get());
    ++entry;
  }
  return seen;
}

Inspect::Frame Inspect::groups(std::uint64_t request, std::optional<UserId> only) const {
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
      const Client* client = seat == group.seats().end() ? nullptr : parts_.clients.known(seat->second.client);
      const bool held = client != nullptr;
      const char* what = held                                                      ? "held"
                         : std::find(lost.begin(), lost.end(), rank) != lost.end() ? "lost"
                         : group.newcomers().contains(rank)                        ? "newcomer"
                         : group.is_member(rank)                                   ? "awaited"
                                                                                   : "absent";
      // The pid of a member is no secret, as losses tell it to all members.
      seats.push_back(wire::CreateSeatInfo(
          fbb, rank, fbb.CreateString(held ? parts_.clients.label(client->id, only) : ""),
          held ? client->credentials.pid : 0, fbb.CreateString(what), state->muster->position(rank)));
    }
    const bool failed = !lost.empty() && group.settings().on_loss == muster::OnLoss::fail;
    const auto timeout_ms = std::chrono::duration_cast<std::chrono::milliseconds>(group.settings().timeout).count();
    infos.push_back(
        wire::CreateGroupInfo(fbb, fbb.CreateString(group.settings().name), group.epoch(), group.settings().world_size,
                              fbb.CreateString(std::string(name(group.settings().on_loss))),
                              static_cast<std::uint32_t>(timeout_ms), fbb.CreateString(failed ? "failed" : "ok"),
                              fbb.CreateVector(seats), state->ops_done, state->ops_failed, state->muster->in_flight()));
  }
  const auto total = static_cast<std::uint32_t>(only ? seen.size() : parts_.groups.size());
  auto body = wire::CreateGroups(fbb, fbb.CreateVector(infos), total);
  return out.finish(wire::Body_Groups, body.Union());
}

Inspect::Frame Inspect::clients(std::uint64_t request, std::optional<UserId> only, TimePoint now) const {
  FrameBuilder out(request);
  auto& fbb = out.fbb;
  std::vector<flatbuffers::Offset<wire::ClientInfo>> infos;
  std::uint32_t total = 0;
  for (const auto& [client_id, client] : parts_.clients.all()) {
    if (only && client.credentials.user != *only) continue;
    ++total;
    if (is_long(fbb)) continue;
    const auto account = parts_.ledger.client(client_id);
    infos.push_back(wire::CreateClientInfo(
        fbb, client_id.value, fbb.CreateString(client.name), client.credentials.pid, client.credentials.user,
        account.used[Resource::memory], account.used[Resource::objects], parts_.store.holds().held_by(client_id),
        account.used[Resource::slots], seconds(now - client.last_heard), account.used[Resource::heap]));
  }
  auto body = wire::CreateClients(fbb, fbb.CreateVector(infos), total);
  return out.finish(wire::Body_Clients, body.Union());
}

}  // namespace musterd
