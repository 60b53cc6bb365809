// Records from the daemon: one waiter at a time reads the ring for all, there is no thread of our own. What follows
// from a record (holds and seats that end, segments that go back, calls back) happens after the ring's lock is let go.
#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include <muster/ipc/failpoint.hpp>

#include "base/call_deadline.hpp"
#include "connection.hpp"
#include "memory/hold.hpp"
#include "base/interrupted.hpp"
#include "seat.hpp"

namespace muster::detail {

using std::chrono::steady_clock;

namespace {

/// Set as long as this lives, and then what it was.
class Flag {
 public:
  explicit Flag(bool& flag) : flag_(flag), before_(std::exchange(flag, true)) {}
  Flag(const Flag&) = delete;
  Flag& operator=(const Flag&) = delete;
  ~Flag() { flag_ = before_; }

 private:
  bool& flag_;
  bool before_;
};

}  // namespace

// ---- reading ----

bool Connection::has_completions() const {
  const auto& head = header();
  return head.completion_tail.load(std::memory_order_relaxed) != head.completion_head.load(std::memory_order_relaxed);
}

thread_local bool Connection::drains_here = false;

bool Connection::drain() {
  const Flag reading(drains_here);
  Aftermath aftermath;
  bool any = false;
  std::optional<Error> broken;
  {
    const std::lock_guard lock(drain_mutex_);
    for (;;) {
      auto record = completions_.next();
      if (!record) broken = record.error();
      if (!record || !*record) break;
      any = true;
      if (auto handled = handle(**record, aftermath); !handled) {
        broken = handled.error();
        break;
      }
    }
    if (any && header().completions_wait.load(std::memory_order_seq_cst) != 0) ipc::signal(doorbell_);
  }
  if (any) {
    wake_waiters();
    for (const auto object : aftermath.gone) arena_->object_gone(object);
    if (aftermath.memory_wanted) arena_->trim();
    for (const auto segment : aftermath.segments_gone) segments_->gone(segment);
    aftermath.over.clear();
    flush_releases();
  }
  if (broken) end(*broken);
  return any;
}

Result<void> Connection::handle(const ipc::Record& record, Aftermath& aftermath) {
  switch (static_cast<ipc::CompletionType>(record.type)) {
    case ipc::CompletionType::done: return handle_done(record, aftermath);
    case ipc::CompletionType::failed: {
      auto failed = ipc::read_failed(record.body);
      if (!failed) return failed.error();
      if (auto op = take_in_flight(failed->work)) finish(std::move(*op), failed->error, {}, aftermath);
      return {};
    }
    case ipc::CompletionType::object_gone: {
      auto gone = ipc::read_object_gone(record.body);
      if (!gone) return gone.error();
      aftermath.gone.push_back(gone->object);
      forget_seal_error(gone->object);
      return {};
    }
    case ipc::CompletionType::seal_failed: {
      auto failed = ipc::read_seal_failed(record.body);
      if (!failed) return failed.error();
      // The object never was: its regions are free again, and its users are told why.
      aftermath.gone.push_back(failed->object);
      const std::lock_guard lock(works_mutex_);
      // Until its hold is gone. If that was before, the daemon says so when it has read the release.
      seal_errors_.emplace(failed->object, failed->error);
      has_seal_errors_ = true;
      return {};
    }
    case ipc::CompletionType::group_changed: return handle_change(record);
    case ipc::CompletionType::segment_gone: {
      auto gone = ipc::read_segment_gone(record.body);
      if (!gone) return gone.error();
      aftermath.segments_gone.push_back(gone->segment);
      return {};
    }
    case ipc::CompletionType::memory_wanted: aftermath.memory_wanted = true; return {};
  }
  return Error(Code::invalid, "the daemon sent a record of unknown type " + std::to_string(record.type),
               "install the same version of Muster on both sides");
}

Result<void> Connection::handle_done(const ipc::Record& record, Aftermath& aftermath) {
  auto done = ipc::read_done(record.body);
  if (!done) return done.error();
  Outcome outcome;
  outcome.contributors = static_cast<int>(done->contributors);
  for (auto& item : done->items) {
    auto hold =
        std::make_shared<Hold>(shared_from_this(), *this, item.object, item.capability, std::move(item.manifest));
    hold->described = item.described;
    hold->shared = true;
    outcome.refs.emplace_back(std::shared_ptr<const Hold>(std::move(hold)));
  }
  done->items.clear();
  MUSTER_FAILPOINT(completed);
  if (auto op = take_in_flight(done->work)) finish(std::move(*op), std::move(outcome), std::move(*done), aftermath);
  else aftermath.unwanted.push_back(std::move(outcome));
  return {};
}

Result<void> Connection::handle_change(const ipc::Record& record) {
  auto changed = ipc::read_group_changed(record.body);
  if (!changed) return changed.error();
  std::shared_ptr<Seat> seat;
  {
    const std::lock_guard lock(works_mutex_);
    if (auto found = seats_.find(changed->seat); found != seats_.end()) seat = found->second.lock();
    constexpr std::size_t early_max = 1024;
    if (!seat && early_changes_.size() < early_max) early_changes_[changed->seat] = *changed;
  }
  if (!seat) return {};
  const std::lock_guard lock(seat->mutex);
  seat->epoch = changed->epoch;
  seat->live.assign(changed->live.begin(), changed->live.end());
  return {};
}

std::optional<Connection::InFlight> Connection::take_in_flight(ipc::WorkId work) {
  const std::lock_guard lock(works_mutex_);
  auto found = works_.find(work);
  if (found == works_.end()) return std::nullopt;
  std::optional op(std::move(found->second));
  works_.erase(found);
  return op;
}

void Connection::finish(InFlight&& op, Result<Outcome>&& outcome, ipc::Done&& done, Aftermath& aftermath) {
  auto work = op.work.lock();
  auto seat = op.seat.lock();
  if (seat) {
    const std::lock_guard lock(seat->mutex);
    --seat->in_flight;
  }
  // Ends of what was in the works come later, without a lock.
  aftermath.seats.push_back(std::move(seat));
  if (!work) {
    if (outcome) aftermath.unwanted.push_back(std::move(*outcome));
    if (done.seat) {
      // Of a split that nobody waits for any more: who lets go of a seat leaves the group.
      auto unwanted = std::make_shared<Seat>();
      unwanted->connection = shared_from_this();
      unwanted->id = done.seat;
      aftermath.seats.push_back(std::move(unwanted));
    }
    return;
  }
  if (work->kind == ipc::Kind::split || work->kind == ipc::Kind::reform) work->done = std::move(done);
  work->outcome.emplace(std::move(outcome));
  Callbacks callbacks;
  {
    const std::lock_guard lock(works_mutex_);
    work->over.store(true, std::memory_order_seq_cst);
    callbacks.swap(work->callbacks);
  }
  if (!callbacks.empty()) {
    const std::lock_guard lock(callbacks_mutex_);
    std::move(callbacks.begin(), callbacks.end(), std::back_inserter(due_callbacks_));
    has_callbacks_ = true;
  }
  aftermath.over.push_back(std::move(work));
}

// ---- calling back ----

void Connection::on_done(const std::shared_ptr<WorkState>& work, std::function<void()> callback) {
  {
    const std::lock_guard lock(works_mutex_);
    if (!work->over.load(std::memory_order_acquire)) {
      work->callbacks.push_back(std::move(callback));
      // Somebody wants to hear of it, so it lives until then.
      if (auto found = works_.find(work->id); found != works_.end()) found->second.kept = work;
      return;
    }
  }
  callback();
}

void Connection::run_callbacks() {
  while (has_callbacks_ && !inherited()) {
    Callbacks due;
    {
      const std::lock_guard lock(callbacks_mutex_);
      due.swap(due_callbacks_);
      has_callbacks_ = false;
    }
    const CallDeadline none;
    for (const auto& callback : due) callback();
  }
}

// ---- waiting ----

bool Connection::wait(const std::function<bool()>& over, SteadyTime until) {
  collect();
  if (!has_callbacks_ && over()) return true;
  auto next_look = steady_clock::now() + look_up_interval;
  for (;;) {
    run_callbacks();
    if (over()) return true;
    const auto now = steady_clock::now();
    if (!alive() || now >= until) return over();
    if (now >= next_look) {
      if (interrupted()) return over();
      next_look = now + look_up_interval;
    }
    std::unique_lock role(role_mutex_);
    if (draining_) {
      // Looked at once more under the lock that a reader takes before it notifies.
      if (!over()) drained_.wait_until(role, std::min(until, next_look));
      continue;
    }
    draining_ = true;
    role.unlock();
    read_for_all(over, std::min(until, next_look));
    role.lock();
    draining_ = false;
    role.unlock();
    drained_.notify_all();
  }
}

void Connection::read_for_all(const std::function<bool()>& over, SteadyTime until) {
  constexpr unsigned rounds_per_look = 8;  // at the clock
  ipc::Backoff backoff;
  const auto begin = steady_clock::now();
  while (!over() && alive() && !has_callbacks_) {
    if (has_completions() && drain()) {
      backoff.reset();
      continue;
    }
    backoff.step();
    if (backoff.rounds() % rounds_per_look != 0) continue;
    const auto now = steady_clock::now();
    if (now >= until) break;
    if (now >= begin + patience_.poll_max(backoff)) sleep_for_completions(over, until);
  }
  patience_.waited(steady_clock::now() - begin);
  // Once in a while, and whenever nothing has come for long: is the daemon still there?
  look_at_socket();
}

void Connection::sleep_for_completions(const std::function<bool()>& over, SteadyTime until) {
  auto& sleeps = header().client_sleeps;
  sleeps.store(1, std::memory_order_seq_cst);
  bool nothing_came = false;
  {
    const std::lock_guard lock(drain_mutex_);
    nothing_came = completions_.empty();
  }
  MUSTER_FAILPOINT(waiting);
  // Another thread may have read what we wait for before it could see that we sleep.
  if (nothing_came && !over()) ipc::futex_wait(sleeps, 1, until - steady_clock::now());
  sleeps.store(0, std::memory_order_seq_cst);
}

void Connection::wake_waiters() {
  { const std::lock_guard lock(role_mutex_); }
  drained_.notify_all();
  auto& sleeps = header().client_sleeps;
  if (sleeps.load(std::memory_order_seq_cst) == 0) return;
  sleeps.store(0, std::memory_order_seq_cst);
  ipc::futex_wake_all(sleeps);
}

void Connection::collect() {
  if (alive() && has_completions()) drain();
}

// ---- event loops ----

void Connection::poll() {
  if (inherited()) return;
  // Before the looks, so that nothing that comes in between is missed.
  if (notify_wanted_) ipc::drain(woken_);
  if (alive()) {
    drain();
    if (notify_wanted_ && header().notify_armed.load(std::memory_order_seq_cst) == 0) {
      // Armed again before the last look, so that nothing that comes in between is missed.
      ipc::silence(notify_);
      header().notify_armed.store(1, std::memory_order_seq_cst);
      drain();
    }
    // An event loop calls because the socket, too, may have something.
    if (notify_wanted_) static_cast<void>(receive_if_free());
    else look_at_socket();
  } else {
    ipc::silence(notify_);
  }
  run_callbacks();
}

Result<int> Connection::event_fd() {
  if (!alive()) return end_error();
  const std::lock_guard lock(end_mutex_);
  if (!events_) {
    auto woken = ipc::create_eventfd();
    if (!woken) return woken.error();
    ipc::Fd events(::epoll_create1(EPOLL_CLOEXEC));
    epoll_event event{};
    event.events = EPOLLIN;
    for (const int fd : {notify_.get(), socket_.get(), woken->get()})
      if (!events || ::epoll_ctl(events.get(), EPOLL_CTL_ADD, fd, &event) != 0)
        return ipc::system_error(Code::failed, "can't watch the connection", errno);
    events_ = std::move(events);
    woken_ = std::move(*woken);
  }
  // Not armed, but signalled: something may have come before, and the first poll() arms.
  if (!notify_wanted_.exchange(true)) ipc::signal(woken_);
  return events_.get();
}

}  // namespace muster::detail
