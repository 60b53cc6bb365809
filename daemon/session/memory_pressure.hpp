// What happens while requests and ops wait for memory: who is tried again and when, what pickled refs give up, how
// clients learn of it, and what an error says of who holds the memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include <muster/result.hpp>

#include "base/time.hpp"
#include "memory/admission.hpp"
#include "memory/ledger.hpp"
#include "memory/result_pool.hpp"
#include "memory/segment_table.hpp"
#include "session/clients.hpp"
#include "session/outside.hpp"
#include "session/teller.hpp"
#include "store/store.hpp"

namespace musterd {

class MemoryPressure {
 public:
  struct Settings {
    std::uint64_t memory_bytes = 0;  ///< of the whole store
    Duration pickle_lease{};
  };
  /// What the node has, and whom it serves.
  struct Parts {
    Ledger& ledger;
    SegmentTable& segments;
    ResultPool& results;
    Store& store;
    Admission& admission;
    const Clients& clients;
    Teller& teller;
    Outside& outside;
  };
  MemoryPressure(Settings settings, Parts parts) : settings_(settings), parts_(parts) {}

  /// After every event: tries those who wait, if memory came back.
  void serve(TimePoint now);
  /// After that: those who still wait want what others don't use.
  void ask_clients(TimePoint now);
  /// Clients no longer see that others wait, once these don't.
  void tick(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;

  /// Memory came back that those who wait have not been tried with.
  [[nodiscard]] bool has_news() const { return releases() != seen_releases_; }
  /// What a vain attempt takes and gives back is no news to others who wait.
  template <class Attempt>
  [[nodiscard]] muster::Result<void> try_quietly(Attempt attempt) {
    const auto before = releases();
    auto done = attempt();
    if (!done) seen_releases_ += releases() - before;
    return done;
  }

  /// Says of a full store who holds it, how much of it lies beside objects, and what pickled refs keep. `seen_by`:
  /// the user who will read it, as in Clients::label(). Only for what is given up: see Ledger::charge().
  [[nodiscard]] muster::Error with_holders(const muster::Error& error, std::optional<UserId> seen_by, TimePoint now);

 private:
  /// Some wait, and not only for their turns.
  [[nodiscard]] bool waits_in_vain() const { return parts_.admission.waiting() > 0 && !parts_.admission.goes_on(); }
  [[nodiscard]] std::uint64_t releases() const {
    return parts_.ledger.memory_releases() + parts_.results.region_releases();
  }
  void drop_pickles(TimePoint now);

  Settings settings_;
  Parts parts_;
  std::uint64_t seen_releases_ = 0;
  std::optional<TimePoint> wanted_until_;     ///< the clients see until then that others wait for memory
  std::optional<TimePoint> drop_pickles_at_;  ///< no earlier, as memory takes a moment to come back
  std::string holders_;                       ///< who holds the most, as it was at holders_at_ for holders_seen_by_
  TimePoint holders_at_;
  std::optional<UserId> holders_seen_by_;
};

}  // namespace musterd
