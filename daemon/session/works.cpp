#include "session/works.hpp"

#include <utility>

namespace musterd {

using muster::Error;
namespace ipc = muster::ipc;

Ticket Works::ticket_of(ClientId client, WorkId work) {
  constexpr int low_half = 32;
  return Ticket{client.value} << low_half | static_cast<std::uint32_t>(work.value);
}

Ticket Works::add(Pending pending) {
  constexpr ClientId nobody{first_heir};  // no client with works has this id
  Ticket ticket = ticket_of(pending.client, pending.work);
  while (!pending_.try_emplace(ticket, std::move(pending)).second) ticket = ticket_of(nobody, {++last_unasked_});
  return ticket;
}

Pending* Works::find(Ticket ticket) {
  const auto found = pending_.find(ticket);
  return found == pending_.end() ? nullptr : &found->second;
}

const Pending* Works::find(ClientId client, WorkId work) const {
  const Pending* pending = find(ticket_of(client, work));
  return pending && pending->work == work ? pending : nullptr;
}

Client* Works::waiting(Ticket ticket) {
  const Pending* pending = find(ticket);
  return pending ? clients_.find(pending->client) : nullptr;
}

std::optional<Pending> Works::take(Ticket ticket) {
  auto found = pending_.find(ticket);
  if (found == pending_.end()) return std::nullopt;
  Pending pending = std::move(found->second);
  pending_.erase(found);
  if (pending.told || !clients_.find(pending.client)) return std::nullopt;
  return pending;
}

void Works::settle_done(Ticket ticket, const ipc::Done& outcome) noexcept {
  const auto pending = take(ticket);
  if (!pending) return;
  clients_.guarded(
      [&] {
        ipc::Done done = outcome;
        done.work = pending->work;
        teller_.tell(pending->client, ipc::CompletionType::done, done);
      },
      pending->client);
}

void Works::settle_objects(Ticket ticket, std::span<const ObjectPtr> objects,
                           std::vector<std::byte>& outcome) noexcept {
  const auto pending = take(ticket);
  if (!pending) return;
  clients_.guarded(
      [&] {
        for (const auto& object : objects) store_.holds().add_reserved(object, pending->client);
        ipc::address_done(outcome, pending->work);
        outside_.complete(pending->client, ipc::CompletionType::done, outcome);
      },
      pending->client);
}

void Works::settle_failed(Ticket ticket, const Error& error) noexcept {
  if (const auto pending = take(ticket)) teller_.fail_work(pending->client, pending->work, error);
}

void Works::cut_off(Ticket ticket) noexcept {
  const auto pending = pending_.find(ticket);
  if (pending == pending_.end()) return;
  clients_.doom(pending->second.client);
  pending_.erase(pending);
}

}  // namespace musterd
