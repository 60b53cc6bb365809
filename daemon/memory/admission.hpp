// A full store makes callers wait, in FIFO order, up to their deadlines; this decides who goes on and when.
// Pure: it asks for room through a function and is told when memory came back.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <vector>

#include "base/time.hpp"
#include "memory/ledger.hpp"

namespace musterd {

/// One request that waits for memory.
using WaiterId = std::uint64_t;

class Admission {
 public:
  /// Tries to satisfy the request: ok (done), OutOfMemory (no room now: keep waiting), or another error (give up).
  using Attempt = std::function<muster::Result<void>()>;
  /// Called once with the final error if the request is given up (deadline, or an error of the attempt).
  using GiveUp = std::function<void(muster::Error)>;

  explicit Admission(std::size_t waiters_max) : waiters_max_(waiters_max) {}

  /// Tries at once if nobody waits; else, or if there is no room, queues. A full queue gives up at once with
  /// OutOfMemory.
  /// An attempt may call anything here, request() included.
  WaiterId request(ClientId client, TimePoint deadline, Attempt attempt, GiveUp give_up);
  /// Memory came back: tries from the front for as long as the front succeeds.
  void retry();
  /// True if the request at the front has not been tried since it came there: a retry may help without new memory.
  [[nodiscard]] bool front_is_untried() const { return !waiters_.empty() && waiters_.front().id != tried_; }
  /// Gives up on everybody whose deadline has passed; the error is the attempt's OutOfMemory.
  void expire(TimePoint now);
  /// Forgets a client's requests without a word to it.
  void forget(ClientId client);
  void forget_waiter(WaiterId waiter);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;
  [[nodiscard]] std::size_t waiting() const { return waiters_.size(); }

 private:
  struct Waiter {
    WaiterId id;
    ClientId client;
    TimePoint deadline;
    Attempt attempt;
    GiveUp give_up;
    muster::Error last_error;
  };
  std::size_t waiters_max_;
  WaiterId next_id_ = 1;
  std::list<Waiter> waiters_;
  WaiterId tried_ = 0;   ///< the last one that found no room at the front
  WaiterId trying_ = 0;  ///< whose attempt is running; 0: nobody's, or its client was forgotten meanwhile
  ClientId trying_client_;
  bool retrying_ = false;
};

}  // namespace musterd
