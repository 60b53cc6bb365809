// Pending works: who gets the outcome of each op, by the tickets of its contributions. Every ticket is settled once. An
// outcome is the same for all, so a client that can't be told is cut off. Settling throws nothing.
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

/// No client has number zero.
inline constexpr Ticket nobodys_ticket = 0;

/// The client and work that an outcome goes to.
struct Pending {
  ClientId client;
  WorkId work;
  SeatId seat;          ///< 0 for combines
  GroupPtr group;       ///< null for combines
  Process process;      ///< the client's process; the client may be gone before its op runs
  Muster::Handle op{};  ///< the op that it waits in, if that op gathers
  bool told = false;    ///< has its outcome, and only keeps its place in the next epoch
};

class Works {
 public:
  /// `secret` is the hash's, as clients choose what is hashed.
  Works(Clients& clients, Teller& teller, Store& store, Outside& outside, std::uint64_t secret)
      : clients_(clients), teller_(teller), store_(store), outside_(outside), pending_(0, SecretHash{secret}) {}

  /// Adds a work. It can be found by its number, so that the client can ask whom it waits for. If the client has a
  /// pending work with the same low half of the number, the new one can't be found by its number.
  [[nodiscard]] Ticket add(Pending pending);
  void erase(Ticket ticket) { pending_.erase(ticket); }

  /// Null if the work is settled.
  [[nodiscard]] Pending* find(Ticket ticket);
  [[nodiscard]] const Pending* find(Ticket ticket) const { return const_cast<Works*>(this)->find(ticket); }
  /// The work must be pending.
  [[nodiscard]] Pending& at(Ticket ticket) { return pending_.at(ticket); }
  [[nodiscard]] const Pending& at(Ticket ticket) const { return pending_.at(ticket); }
  /// Null if the client doesn't wait for the work, or if the work can't be found by its number.
  [[nodiscard]] const Pending* find(ClientId client, WorkId work) const;
  /// The client that waits for the outcome. Null if the work is settled, or if the client is gone.
  [[nodiscard]] Client* waiting(Ticket ticket);
  [[nodiscard]] const Client* waiting(Ticket ticket) const { return const_cast<Works*>(this)->waiting(ticket); }
  [[nodiscard]] std::size_t size() const { return pending_.size(); }

  void settle_done(Ticket ticket, const muster::ipc::Done& outcome) noexcept;
  /// Gives the client these objects, for which it has holds reserved. `outcome` names them; the work's number is
  /// written into it.
  void settle_objects(Ticket ticket, std::span<const ObjectPtr> objects, std::vector<std::byte>& outcome) noexcept;
  void settle_failed(Ticket ticket, const muster::Error& error) noexcept;
  /// Cuts off the client of a work that can't have an outcome.
  void cut_off(Ticket ticket) noexcept;

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
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
