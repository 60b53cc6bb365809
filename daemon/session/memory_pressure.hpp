// What happens while requests and ops wait for memory: which are tried again and when, what pickled refs and histories
// give up, how clients learn of it, and what errors say about who holds the memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include <muster/result.hpp>

#include "base/time.hpp"
#include "memory/admission.hpp"
#include "memory/ledger.hpp"
#include "memory/result_pool.hpp"
#include "memory/segment_table.hpp"
#include "session/clients.hpp"
#include "session/history.hpp"
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
  /// The parts of the node that it uses and serves.
  struct Parts {
    Ledger& ledger;
    SegmentTable& segments;
    ResultPool& results;
    Store& store;
    History& history;
    Admission& admission;
    const Clients& clients;
    Teller& teller;
    Outside& outside;
  };
  MemoryPressure(Settings settings, Parts parts) : settings_(settings), parts_(parts) {}

  /// Called after every event: tries the waiting requests if memory came back.
  void serve(TimePoint now);
  /// Called after serve(): if requests still wait, asks the clients for memory that they don't use.
  void ask_clients(TimePoint now);
  /// Shows clients that others no longer wait, once none do.
  void tick(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;

  /// Tries to get `bytes` of memory for the user, and tries again after what nobody needs has been given back, if that
  /// can help: free segments of results, and what groups remember. If that takes a moment, the error is OutOfMemory,
  /// whatever the limit was, and the caller may wait.
  template <class Attempt>
  [[nodiscard]] auto try_with_spare(UserId user, std::uint64_t bytes, Attempt attempt) -> decltype(attempt()) {
    Spare spare = Spare::none;
    auto done = try_again_with_spare(user, bytes, attempt, spare);
    if (spare != Spare::comes_back || done || !is_full(done.error())) return done;
    return muster::Error(muster::Code::out_of_memory, done.error().message(), done.error().hint());
  }
  /// The same for a caller that can't wait.
  template <class Attempt>
  [[nodiscard]] auto try_at_once(UserId user, std::uint64_t bytes, Attempt attempt) -> decltype(attempt()) {
    Spare spare = Spare::none;
    return try_again_with_spare(user, bytes, attempt, spare);
  }
  /// True if memory came back since the waiting requests were last tried.
  [[nodiscard]] bool has_news() const { return releases() != seen_releases_; }
  /// Runs an attempt. What a failed attempt takes and gives back does not count as memory that came back.
  template <class Attempt>
  [[nodiscard]] muster::Result<void> try_quietly(Attempt attempt) {
    const auto before = releases();
    auto done = attempt();
    if (!done) seen_releases_ += releases() - before;
    return done;
  }

  /// Adds to the error of a full store who holds the memory, how much of it lies beside objects, and what pickled refs
  /// keep. `seen_by` is the user who will read it, as in Clients::label(). Only for requests that are given up: see
  /// Ledger::charge().
  [[nodiscard]] muster::Error with_holders(const muster::Error& error, std::optional<UserId> seen_by, TimePoint now,
                                           Resource memory = Resource::memory);

 private:
  /// True if requests wait for memory, and not only for their turns.
  [[nodiscard]] bool waits_in_vain() const { return parts_.admission.waiting() > 0 && !parts_.admission.goes_on(); }
  [[nodiscard]] std::uint64_t releases() const {
    return parts_.ledger.memory_releases() + parts_.results.region_releases();
  }
  [[nodiscard]] static bool is_full(const muster::Error& error) {
    return error.code() == muster::Code::out_of_memory || error.code() == muster::Code::quota_exceeded;
  }
  /// What a request that was refused may hope for.
  enum class Spare : std::uint8_t {
    none,
    here,        ///< it can be had now
    comes_back,  ///< some of it can only be had in a moment
  };
  template <class Attempt>
  [[nodiscard]] auto try_again_with_spare(UserId user, std::uint64_t bytes, Attempt& attempt, Spare& spare)
      -> decltype(attempt()) {
    static_cast<void>(parts_.ledger.take_shortage());
    auto done = attempt();
    if (!done && is_full(done.error())) spare = find_spare(user, bytes);
    return spare == Spare::none ? std::move(done) : attempt();
  }
  [[nodiscard]] Spare find_spare(UserId user, std::uint64_t bytes);
  [[nodiscard]] bool give_back(UserId user, std::uint64_t bytes, const Ledger::Shortage& shortage);
  [[nodiscard]] bool trim(UserId user, const Ledger::Shortage& shortage);
  [[nodiscard]] bool forget(UserId user, std::uint64_t bytes, Ledger::Shortage::Of of);
  [[nodiscard]] bool can_drop() const { return parts_.store.pickles().has_loaded() || !parts_.history.empty(); }
  void drop_spare(TimePoint now);

  static constexpr std::uint64_t dropped_parts = 16;  ///< of the whole memory, one such part is dropped at a time

  Settings settings_;
  Parts parts_;
  TimePoint now_;  ///< of the last event
  static constexpr UserId everybody = ~UserId{0};
  /// Until when something that was given back for a user, or for everybody, may still come back.
  std::unordered_map<UserId, TimePoint> returning_until_;
  bool daemon_is_short_ = false;  ///< a request was refused for lack of the daemon's memory since the last retry
  std::uint64_t seen_releases_ = 0;
  std::optional<TimePoint> wanted_until_;  ///< until when clients see that others wait for memory
  std::optional<TimePoint> drop_at_;       ///< not earlier, as memory takes a moment to come back
  std::string holders_;                    ///< who holds the most, as it was at holders_at_ for holders_seen_by_
  Resource holders_of_ = Resource::memory;
  TimePoint holders_at_;
  std::optional<UserId> holders_seen_by_;
};

}  // namespace musterd
