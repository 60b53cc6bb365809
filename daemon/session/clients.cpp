#include "session/clients.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/ring.hpp>

#include "base/assert.hpp"
#include "memory/segment_table.hpp"

namespace musterd {

using muster::Code;
using muster::Result;
namespace ipc = muster::ipc;

Result<void> Clients::add(ClientId id, Credentials credentials, TimePoint now) {
  Client fresh;
  fresh.id = id;
  fresh.credentials = credentials;
  fresh.name = fmt::format("pid {}", credentials.pid);
  fresh.connected = fresh.last_heard = now;
  if (auto charged = charge_asking(fresh); !charged) return charged;
  const bool is_new = clients_.emplace(id, std::move(fresh)).second;
  MUSTER_ASSERT(is_new, "client ids are unique");
  return {};
}

void Clients::erase(ClientId id) {
  const auto client = clients_.find(id);
  if (client == clients_.end()) return;
  const UserId user = client->second.credentials.user;
  clients_.erase(client);
  ++erased_;
  if (const auto looks = free_looks_.find(user); looks != free_looks_.end() && looks->second.use_count() == 1)
    free_looks_.erase(looks);
}

Client* Clients::find(ClientId id) {
  const auto found = clients_.find(id);
  return found == clients_.end() || found->second.gone ? nullptr : &found->second;
}

const Client* Clients::known(ClientId id) const {
  const auto found = clients_.find(id);
  return found == clients_.end() ? nullptr : &found->second;
}

// ---- charges ----

/// Marks the first clients of a user that only ask. They are charged for descriptors alone, so that even a full daemon
/// can be inspected. Null for the others.
std::shared_ptr<void> Clients::free_look_of(UserId user) {
  constexpr long free_max = 8;
  auto& all = free_looks_[user];
  if (!all) all = std::make_shared<char>();
  return all.use_count() <= free_max ? all : nullptr;
}

Result<void> Clients::charge_asking(Client& client) {
  constexpr std::uint64_t socket_and_process = 2;
  constexpr std::uint64_t heap = 4 << 10;  // with what the event loop and the kernel have for it, as measured
  client.free_look = free_look_of(client.credentials.user);
  auto descriptors = ledger_.charge(client.payer(), Resource::fds, socket_and_process, client.free_look ? 0 : heap);
  if (!descriptors) return descriptors.error();
  client.descriptors = std::move(*descriptors);
  return {};
}

Result<void> Clients::charge_rings(Client& client) {
  constexpr std::uint64_t all_descriptors = 6;
  constexpr std::uint64_t heap = (15 << 10) + SegmentTable::readers_free * SegmentTable::reader_bytes;  // as measured
  auto channel = ledger_.charge(client.payer(), Resource::memory, ipc::channel_bytes);
  if (!channel && channel.error().code() == Code::out_of_memory)
    channel = ledger_.charge_small(client.payer(), ipc::channel_bytes, Turn::before_others);
  if (!channel) return channel.error();
  auto map = ledger_.charge(client.payer(), Resource::maps, 1);
  if (!map) return map.error();
  client.free_look.reset();
  client.descriptors.reset();
  auto descriptors = ledger_.charge(client.payer(), Resource::fds, all_descriptors, heap);
  if (!descriptors) {
    static_cast<void>(charge_asking(client));  // fits, as it was given back just now
    return descriptors.error();
  }
  client.descriptors = std::move(*descriptors);
  client.rings = {std::move(*channel), std::move(*map)};
  return {};
}

ClientId Clients::next_heir() {
  do last_heir_ = last_heir_ == std::numeric_limits<std::uint32_t>::max() ? first_heir : last_heir_ + 1;
  while (lifelines_.contains(ClientId{last_heir_}));
  return ClientId{last_heir_};
}

// ---- what messages call them ----

std::string Clients::label(ClientId id) const {
  if (id.value == 0) return "musterd";
  if (auto found = clients_.find(id); found != clients_.end()) return found->second.name;
  if (auto found = lifelines_.find(id); found != lifelines_.end())
    return "forked child of " + label(found->second.parent);
  return fmt::format("client {} (gone)", id.value);
}

std::string Clients::label(ClientId id, std::optional<UserId> seen_by) const {
  const auto line = lifelines_.find(id);
  const Client* client = known(line == lifelines_.end() ? id : line->second.parent);
  if (!seen_by || !client || client->credentials.user == *seen_by) return label(id);
  return fmt::format("uid {}", client->credentials.user);
}

std::string Clients::process_text(const Client& client) const {
  // A process of another container has no pid that is visible here.
  const auto number = client.credentials.pid;
  const std::string process = number == 0 ? label(client.id) : fmt::format("pid {}", number);
  return host_.empty() ? process : fmt::format("{} on {}", process, host_);
}

std::optional<UserId> Clients::view_of(UserId user) const {
  if (user == 0 || user == owner_) return std::nullopt;
  return user;
}

std::optional<UserId> Clients::sees_only(ClientId id) const {
  const Client* client = find(id);
  return view_of(client ? client->credentials.user : owner_);
}

// ---- what is thrown ----

void Clients::doom(ClientId id) noexcept {
  const auto client = clients_.find(id);
  if (client == clients_.end()) return;
  first_doomed_ = any_doomed_ ? std::min(first_doomed_, id) : id;
  client->second.doomed = any_doomed_ = true;
}

std::optional<ClientId> Clients::take_doomed() noexcept {
  if (!any_doomed_) return std::nullopt;
  const auto doomed = std::find_if(clients_.lower_bound(first_doomed_), clients_.end(),
                                   [](const auto& entry) { return entry.second.doomed; });
  any_doomed_ = doomed != clients_.end();
  if (!any_doomed_) return std::nullopt;
  first_doomed_ = doomed->first;
  doomed->second.doomed = doomed->second.gone = false;
  return doomed->first;
}

}  // namespace musterd
