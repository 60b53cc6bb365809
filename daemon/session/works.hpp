// Works that are pending: to whom the outcome of each op goes, by the tickets that its contributions bear. Every ticket
// is settled once. An outcome is the same for all, so a client that can't be told it is cut off. Nothing is thrown.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/records.hpp>

#include "base/secret_hash.hpp"
#include "collective/messages.hpp"
#include "collective/muster.hpp"
#include "session/clients.hpp"
#include "session/teller.hpp"
#include "store/store.hpp"

namespace musterd {

using muster::ipc::SeatId;

/// No client is numbered zero.
inline constexpr Ticket nobodys_ticket = 0;

/// Whom an outcome goes to.
struct Pending {
  ClientId client;
  WorkId work;
  SeatId seat;          ///< 0 for combines
  GroupPtr group;       ///< null for combines
  Process process;      ///< the client's, which may be gone before its op runs
  Muster::Handle op{};  ///< which it waits in, if that gathers
  bool told = false;    ///< has its outcome, and only keeps its place in an epoch that is to come
};

class Works {
 public:
  /// secret: of the hash, as clients choose what is hashed.
  Works(Clients& clients, Teller& teller, Store& store, Outside& outside, std::uint64_t secret)
      : clients_(clients), teller_(teller), store_(store), outside_(outside), pending_(0, SecretHash{secret}) {}

  /// A client's work is found by its number, so that the client can ask for whom it waits. Where a work with that
  /// number is pending, or one of which the low half is the same, the new one goes without.
  [[nodiscard]] Ticket add(Pending pending);
  void erase(Ticket ticket) { pending_.erase(ticket); }

  /// Null if it is settled.
  [[nodiscard]] Pending* find(Ticket ticket);
  [[nodiscard]] const Pending* find(Ticket ticket) const { return const_cast<Works*>(this)->find(ticket); }
  /// It must be pending.
  [[nodiscard]] Pending& at(Ticket ticket) { return pending_.at(ticket); }
  [[nodiscard]] const Pending& at(Ticket ticket) const { return pending_.at(ticket); }
  /// Null if the client doesn't wait for it, or if it goes without a number.
  [[nodiscard]] const Pending* find(ClientId client, WorkId work) const;
  /// Who waits for the outcome; null if it is settled, or if nobody does any more.
  [[nodiscard]] Client* waiting(Ticket ticket);
  [[nodiscard]] const Client* waiting(Ticket ticket) const { return const_cast<Works*>(this)->waiting(ticket); }
  [[nodiscard]] std::size_t size() const { return pending_.size(); }

  void settle_done(Ticket ticket, const muster::ipc::Done& outcome) noexcept;
  /// `outcome` names these objects, of which the client has holds reserved; it is addressed to each in turn.
  void settle_objects(Ticket ticket, std::span<const ObjectPtr> objects, std::vector<std::byte>& outcome) noexcept;
  void settle_failed(Ticket ticket, const muster::Error& error) noexcept;
  /// For a work that has no outcome.
  void cut_off(Ticket ticket) noexcept;

 private:
  friend class NodeAudit;  ///< of the tests: adds up what is held
  [[nodiscard]] static Ticket ticket_of(ClientId client, WorkId work);
  [[nodiscard]] std::optional<Pending> take(Ticket ticket);

  Clients& clients_;
  Teller& teller_;
  Store& store_;
  Outside& outside_;
  boost::unordered_flat_map<Ticket, Pending, SecretHash> pending_;
  std::uint64_t last_unasked_ = 0;
};

}  // namespace musterd
