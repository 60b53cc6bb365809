// Who is connected: what is known of each client and charged to it, what messages call it, and who must be cut off.
#pragma once

#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

#include "base/time.hpp"
#include "cluster/group.hpp"
#include "collective/turns.hpp"
#include "session/connection_charges.hpp"

namespace musterd {

struct GroupState;
using GroupPtr = std::shared_ptr<GroupState>;

/// Who connected, as the kernel reports it.
struct Credentials {
  std::uint32_t user = 0;
  std::int32_t pid = 0;
};

struct Client {
  ClientId id;
  Credentials credentials;
  std::string name;
  bool said_hello = false;
  bool greeted = false;       ///< was sent its Welcome
  bool gone = false;          ///< is being forgotten, and is told nothing any more
  bool doomed = false;        ///< work for it can't be finished, so it is cut off after the event
  bool mapped_rings = false;  ///< has said that it mapped its rings
  RingCharges rings;
  Charge descriptors;               ///< for its socket, pidfd, rings and eventfds, and what they take of the heap
  std::shared_ptr<void> free_look;  ///< set for the first few clients of a user that only ask
  TimePoint connected;
  TimePoint last_heard;
  struct Seated {
    GroupPtr group;
    int rank = 0;
    Charge charge;
    std::optional<Group::Lost> lost;  ///< set when its group knows of the loss, and the rest is left to do
  };
  using Seats = std::unordered_map<SeatId, Seated>;
  Seats seats;
  std::uint32_t requests = 0;  ///< unanswered
  /// A record that comes in parts.
  struct Parts {
    std::uint16_t type = 0;
    std::vector<std::byte> bytes;
    std::vector<Charge> charges;
  };
  Parts parts;
  [[nodiscard]] Payer payer() const { return {credentials.user, id}; }
  [[nodiscard]] Process process() const {
    const bool hidden = credentials.pid == 0;
    return {.user = credentials.user, .pid = credentials.pid, .client = hidden ? id : ClientId{}};
  }
};

inline constexpr std::uint32_t first_heir = 0xf000'0000;  ///< ids from here on are life lines, those below clients

class Clients {
 public:
  /// `owner` is the user as whom the daemon runs. `host` is the machine's name, for messages.
  Clients(Ledger& ledger, UserId owner, std::string host) : ledger_(ledger), owner_(owner), host_(std::move(host)) {}

  /// Adds a client, charged as one that only asks. Refused if there is no room for that. Ids are unique.
  [[nodiscard]] muster::Result<void> add(ClientId id, Credentials credentials, TimePoint now);
  /// Charges it as a client that does more than ask. A refusal leaves it as it was.
  [[nodiscard]] muster::Result<void> charge_rings(Client& client);
  void erase(ClientId id);

  /// Null for a client that is gone or is being forgotten.
  [[nodiscard]] Client* find(ClientId id);
  [[nodiscard]] const Client* find(ClientId id) const { return const_cast<Clients*>(this)->find(id); }
  /// The same, but finds a client that is being forgotten, too.
  [[nodiscard]] const Client* known(ClientId id) const;
  [[nodiscard]] const std::map<ClientId, Client>& all() const { return clients_; }
  [[nodiscard]] bool empty() const { return clients_.empty(); }
  /// How many clients have been erased so far.
  [[nodiscard]] std::uint64_t erased() const { return erased_; }

  // ---- life lines: what the children of forks hold until they have connections of their own ----
  struct LifeLine {
    ClientId parent;  ///< the client that forked
    Charge descriptor;
  };
  [[nodiscard]] ClientId next_heir();
  void add_lifeline(ClientId heir, LifeLine line) { lifelines_.emplace(heir, std::move(line)); }
  void erase_lifeline(ClientId heir) { lifelines_.erase(heir); }

  // ---- what messages call them ----
  [[nodiscard]] std::string label(ClientId id) const;
  /// For a reader that may see one user's clients only: other users' clients are "uid N".
  [[nodiscard]] std::string label(ClientId id, std::optional<UserId> seen_by) const;
  /// "pid 4711 on host"
  [[nodiscard]] std::string process_text(const Client& client) const;
  /// The one user whose things `user` may see. Nothing for the daemon's user and root, who see everything.
  [[nodiscard]] std::optional<UserId> view_of(UserId user) const;
  [[nodiscard]] std::optional<UserId> sees_only(ClientId id) const;

  // ---- what is thrown ----
  /// Calls `what`. If it throws, as memory is short, the daemon goes on. The client that caused it, if any, is doomed,
  /// and unfinished work is tried again.
  template <class What>
  void guarded(What what, ClientId cause = {}) noexcept {
    try {
      what();
    } catch (const std::exception&) {
      tries_again_ = true;
      doom(cause);
    }
  }
  /// Work for the client can be neither finished nor undone, so the client is cut off after the event.
  void doom(ClientId id) noexcept;
  [[nodiscard]] bool any_doomed() const { return any_doomed_; }
  /// Returns the next doomed client, which is no longer doomed then; nothing if there is none. It may have been half
  /// forgotten, and counts as connected again.
  [[nodiscard]] std::optional<ClientId> take_doomed() noexcept;
  /// True if something was thrown, so that some work may be unfinished.
  [[nodiscard]] bool tries_again() const { return tries_again_; }
  void set_tries_again(bool tries_again) { tries_again_ = tries_again; }

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  [[nodiscard]] std::shared_ptr<void> free_look_of(UserId user);
  [[nodiscard]] muster::Result<void> charge_asking(Client& client);

  Ledger& ledger_;
  UserId owner_;
  std::string host_;
  std::map<ClientId, Client> clients_;
  std::map<ClientId, LifeLine> lifelines_;  ///< by heir
  std::map<UserId, std::shared_ptr<void>> free_looks_;
  std::uint64_t erased_ = 0;
  std::uint32_t last_heir_ = first_heir;
  bool any_doomed_ = false;
  ClientId first_doomed_;  ///< if any_doomed_: no client with a smaller id is doomed
  bool tries_again_ = false;
};

}  // namespace musterd
