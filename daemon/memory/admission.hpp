// When the store is full, callers wait up to their deadlines, those of each user in FIFO order. This decides who goes
// on and when. Users take turns, so what one of them waits for delays no other user's requests. Pure: it asks for room
// through a function and is told when memory came back. Nothing here walks over all waiters.
#pragma once

#include <boost/intrusive/list.hpp>
#include <boost/intrusive/set.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "base/time.hpp"
#include "memory/ledger.hpp"

namespace musterd {

/// How much work it is to serve a request, and to give it up; 1 is the least.
struct Effort {
  std::size_t serve = 1;
  std::size_t give_up = 1;
};

class Admission {
 public:
  /// Tries to satisfy the request: ok (done), OutOfMemory (no room now: keep waiting), or another error (give up).
  using Attempt = std::function<muster::Result<void>(Turn)>;
  /// Called once with the final error if the request is given up (deadline, or an error of the attempt). Must not
  /// throw.
  using GiveUp = std::function<void(const muster::Error&)>;

  /// `waiters_max` is a limit for each user. For `effort_max` see retry() and expire().
  explicit Admission(std::size_t waiters_max, std::size_t effort_max = 256)
      : waiters_max_(waiters_max), effort_max_(effort_max) {}

  enum class Size : std::uint8_t {
    small,  ///< needs so little that it is tried at once, ahead of those that wait
    large,
  };
  /// Tries the request at once if no other of the same user waits. Queues it if others wait, or if there is no room. If
  /// the queue is full, it gives up at once with OutOfMemory. An attempt may call anything here, request() included. If
  /// the first attempt throws, the exception goes to the caller. If a later one throws, the request ends with
  /// no_heap(), whatever was thrown. Returns the id of a request that waits; nothing if it is over.
  using WaiterId = std::uint64_t;
  std::optional<WaiterId> request(Payer payer, Size size, TimePoint deadline, Attempt attempt, GiveUp give_up,
                                  Effort effort = {});
  /// Forgets one request without a call of its GiveUp.
  void cancel(WaiterId waiter);
  /// Memory came back: tries the front of each user's line in turn, for as long as one succeeds. A retry that takes too
  /// long for one turn is cut short, and go_on() continues it. A call of retry() before that only makes it go over all
  /// lines once more.
  void retry();
  /// True if a retry was cut short.
  [[nodiscard]] bool goes_on() const { return goes_on_; }
  void go_on();
  /// True if a request has not been tried since it came to the front of its line. A retry may then help without new
  /// memory.
  [[nodiscard]] bool has_untried_front() const;
  /// Gives up requests whose deadlines have passed, the earliest first; the error is the attempt's OutOfMemory. If very
  /// many are late at once, this gives up some of them, and next_deadline() is in the past then.
  void expire(TimePoint now);
  /// Forgets a client's requests without a call of their GiveUp.
  void forget(ClientId client);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;
  [[nodiscard]] std::size_t waiting() const { return waiters_.size(); }
  /// Calls `visit` with each user who waits.
  template <class Visit>
  void for_each_user(Visit visit) const {
    for (const auto& [user, line] : lines_) visit(user);
  }
  /// Why the client's first request waits, with sizes where it has been tried; empty if none does.
  [[nodiscard]] std::string why_it_waits(ClientId client) const;

 private:
  template <class Tag>
  using ListHook = boost::intrusive::list_base_hook<boost::intrusive::tag<Tag>>;
  template <class Tag>
  using SetHook = boost::intrusive::set_base_hook<boost::intrusive::tag<Tag>>;
  using InLine = ListHook<struct OfLine>;
  using AmongSmall = ListHook<struct OfSmall>;
  using ByDeadline = SetHook<struct OfDeadline>;
  using ByClient = SetHook<struct OfClient>;

  struct Line;
  /// Linked from its line, from the line's small ones, by its deadline, and by its client if it has one.
  struct Waiter : InLine, AmongSmall, ByDeadline, ByClient {
    WaiterId id = 0;
    Line* line = nullptr;
    Size size = Size::large;
    ClientId client;
    TimePoint deadline;
    Effort effort;
    Attempt attempt;
    GiveUp give_up;
    muster::Result<void> outcome;  ///< of the latest attempt: OutOfMemory
    bool tried_at_front = false;
  };
  template <class Hook>
  using List = boost::intrusive::list<Waiter, boost::intrusive::base_hook<Hook>>;
  template <class Hook, class Key>
  using Set =
      boost::intrusive::multiset<Waiter, boost::intrusive::base_hook<Hook>, boost::intrusive::key_of_value<Key>>;
  struct DeadlineOf {
    using type = TimePoint;
    const type& operator()(const Waiter& waiter) const { return waiter.deadline; }
  };
  struct ClientOf {
    using type = ClientId;
    const type& operator()(const Waiter& waiter) const { return waiter.client; }
  };
  struct Line {
    List<InLine> waiters;
    List<AmongSmall> small;
    std::size_t trying = 0;  ///< how many of its waiters are being tried: 0 or 1
  };
  using Lines = std::map<UserId, Line>;
  using Waiters = std::map<WaiterId, Waiter>;

  void link(Waiter& waiter);
  Waiters::node_type take(Waiters::iterator waiter);
  [[nodiscard]] Lines::iterator next_line();
  [[nodiscard]] bool try_line(Line& line, std::size_t& left);
  [[nodiscard]] bool try_one(Waiter& waiter, Turn turn, std::size_t& left);
  [[nodiscard]] static muster::Result<void> others_wait(const Line& line);
  void drop_empty_lines();

  std::size_t waiters_max_;
  std::size_t effort_max_;
  Waiters waiters_;
  Lines lines_;  ///< of users who wait
  Set<ByDeadline, DeadlineOf> by_deadline_;
  Set<ByClient, ClientOf> by_client_;
  WaiterId last_id_ = 0;
  bool retrying_ = false;
  bool goes_on_ = false;
  bool again_ = false;                ///< all lines have to be tried once more
  std::optional<UserId> tried_last_;  ///< whose line was tried last in this pass over the lines
};

}  // namespace musterd
