// A full store makes callers wait, each user's in FIFO order, up to their deadlines; this decides who goes on and when.
// Users take turns: what one of them waits for holds up nobody else's requests.
// Pure: it asks for room through a function and is told when memory came back.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <optional>

#include "base/time.hpp"
#include "memory/ledger.hpp"

namespace musterd {

class Admission {
 public:
  /// Tries to satisfy the request: ok (done), OutOfMemory (no room now: keep waiting), or another error (give up).
  using Attempt = std::function<muster::Result<void>(Turn)>;
  /// Called once with the final error if the request is given up (deadline, or an error of the attempt).
  using GiveUp = std::function<void(muster::Error)>;

  /// waiters_max: of one user.
  explicit Admission(std::size_t waiters_max) : waiters_max_(waiters_max) {}

  enum class Size : std::uint8_t {
    small,  ///< needs so little that it is tried at once, before those who wait
    large,
  };
  /// Tries at once if nobody of the same user waits; else, or if there is no room, queues. A full queue gives up at
  /// once with OutOfMemory.
  /// An attempt may call anything here, request() included.
  /// Returns the id of who waits; nothing if it is over.
  using WaiterId = std::uint64_t;
  std::optional<WaiterId> request(Payer payer, Size size, TimePoint deadline, Attempt attempt, GiveUp give_up);
  /// Forgets one request without a word to it.
  void cancel(WaiterId waiter);
  /// Memory came back: tries the front of each user's line in turn, for as long as one succeeds.
  void retry();
  /// True if a request at a front has not been tried since it came there: a retry may help without new memory.
  [[nodiscard]] bool has_untried_front() const;
  /// Gives up on everybody whose deadline has passed; the error is the attempt's OutOfMemory.
  void expire(TimePoint now);
  /// Forgets a client's requests without a word to it.
  void forget(ClientId client);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;
  [[nodiscard]] std::size_t waiting() const;

 private:
  struct Waiter {
    WaiterId id = 0;
    Size size = Size::large;
    ClientId client;
    TimePoint deadline;
    Attempt attempt;
    GiveUp give_up;
    muster::Error last_error;
    bool tried_at_front = false;
  };
  struct Line {
    std::list<Waiter> waiters;
    bool trying = false;     ///< one is out of the list while it is tried
    bool forgotten = false;  ///< meanwhile its client was
    ClientId client;         ///< whose it is
  };
  [[nodiscard]] bool try_line(Line& line);
  [[nodiscard]] bool try_one(Line& line, std::list<Waiter>::iterator waiter, Turn turn);
  [[nodiscard]] static muster::Result<void> others_wait(const Line& line);
  void drop_empty_lines();

  std::size_t waiters_max_;
  std::map<UserId, Line> lines_;  ///< of users who wait
  WaiterId last_id_ = 0;
  bool retrying_ = false;
};

}  // namespace musterd
