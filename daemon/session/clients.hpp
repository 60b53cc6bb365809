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

/// Who connected, as the kernel says.
struct Credentials {
  std::uint32_t user = 0;
  std::int32_t pid = 0;
};

struct Client {
  ClientId id;
  Credentials credentials;
  std::string name;
  bool said_hello = false;
  bool greeted = false;       ///< has been welcomed
  bool gone = false;          ///< is being forgotten, and told nothing any more
  bool doomed = false;        ///< what was begun for it can't be finished: it is cut off after the event
  bool mapped_rings = false;  ///< says that it has
  RingCharges rings;
  Charge descriptors;               ///< its socket, pidfd, rings and eventfds, and what they take of the heap
  std::shared_ptr<void> free_look;  ///< held by the first of its user that only ask
  TimePoint connected;
  TimePoint last_heard;
  struct Seated {
    GroupPtr group;
    int rank = 0;
    Charge charge;
    std::optional<Group::Lost> lost;  ///< its group knows of the loss, and what follows from it is left to do
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
  /// owner: as whom the daemon runs. host: its name, for messages.
  Clients(Ledger& ledger, UserId owner, std::string host) : ledger_(ledger), owner_(owner), host_(std::move(host)) {}

  /// It is charged as one that only asks; refused if there is no room for that. Ids are unique.
  [[nodiscard]] muster::Result<void> add(ClientId id, Credentials credentials, TimePoint now);
  /// Charges it as one that does more than ask. What is refused leaves it as it was.
  [[nodiscard]] muster::Result<void> charge_rings(Client& client);
  void erase(ClientId id);

  /// Null for one that is gone, also while it is being forgotten.
  [[nodiscard]] Client* find(ClientId id);
  [[nodiscard]] const Client* find(ClientId id) const { return const_cast<Clients*>(this)->find(id); }
  /// Also one that is being forgotten.
  [[nodiscard]] const Client* known(ClientId id) const;
  [[nodiscard]] const std::map<ClientId, Client>& all() const { return clients_; }
  [[nodiscard]] bool empty() const { return clients_.empty(); }
  /// How many have been erased so far.
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
  /// Nothing for the daemon's user and root, who see everything; others see what is of their own user.
  [[nodiscard]] std::optional<UserId> view_of(UserId user) const;
  [[nodiscard]] std::optional<UserId> sees_only(ClientId id) const;

  // ---- what is thrown ----
  /// Does it. What is thrown, as memory is short, ends neither the daemon nor what it was about: the client that caused
  /// it, if any, is doomed, and what was begun is tried again.
  template <class What>
  void guarded(What what, ClientId cause = {}) noexcept {
    try {
      what();
    } catch (const std::exception&) {
      tries_again_ = true;
      doom(cause);
    }
  }
  /// What was begun for it can be neither finished nor undone: it ends after the event.
  void doom(ClientId id) noexcept;
  [[nodiscard]] bool any_doomed() const { return any_doomed_; }
  /// The next one, which is doomed no longer; nothing if there is none. It may have been half forgotten when that was
  /// thrown, and counts as connected again.
  [[nodiscard]] std::optional<ClientId> take_doomed() noexcept;
  /// Something was thrown, and what it was about may not be finished.
  [[nodiscard]] bool tries_again() const { return tries_again_; }
  void set_tries_again(bool tries_again) { tries_again_ = tries_again; }

 private:
  friend class NodeAudit;  ///< of the tests: adds up what is held
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
  ClientId first_doomed_;  ///< if any: nobody before it is
  bool tries_again_ = false;
};

}  // namespace musterd
