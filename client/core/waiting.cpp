// Reads what the daemon says, and waits for it. One waiter at a time reads the ring for all; there is no thread for
// this. What follows from a record happens without a lock: holds and seats end, segments go back, callbacks run.
#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/failpoint.hpp>

#include "base/call_deadline.hpp"
#include "base/interrupted.hpp"
#include "connection.hpp"
#include "requests.hpp"

namespace muster::detail {

using std::chrono::steady_clock;

namespace {

/// Sets a flag, and restores its former value when destroyed.
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

struct Connection::Aftermath {
  Works::Aftermath works;
  std::vector<ipc::ObjectId> gone;
  std::vector<ipc::SegmentId> segments_gone;
  std::vector<ipc::SegmentId> in_place_over;
  bool memory_wanted = false;
};

thread_local bool Connection::drains_here = false;

bool Connection::drain() {
  const Flag reading(drains_here);
  Aftermath aftermath;
  const auto read = completions_.read([&](const ipc::Record& record) { return handle(record, aftermath); });
  if (read.any) settle(aftermath);
  if (read.broken) end(*read.broken);
  return read.any;
}

void Connection::settle(Aftermath& aftermath) {
  wake_waiters();
  for (const auto object : aftermath.gone) arenas_->object_gone(object);
  if (aftermath.memory_wanted) arenas_->trim();
  for (const auto segment : aftermath.segments_gone) segments_->gone(segment);
  for (const auto segment : aftermath.in_place_over) left_in_place_->over(segment);
  for (const auto seat : aftermath.works.unwanted_seats) tell_left(*this, seat);
  aftermath.works = {};
  submissions_.flush_releases();
}

Result<void> Connection::handle(const ipc::Record& record, Aftermath& aftermath) {
  switch (static_cast<ipc::CompletionType>(record.type)) {
    case ipc::CompletionType::done: return handle_done(record, aftermath);
    case ipc::CompletionType::failed: {
      auto failed = ipc::read_failed(record.body);
      if (!failed) return failed.error();
      locked([&](Protocol& protocol) { protocol.works.over(failed->work, failed->error, {}, aftermath.works); });
      return {};
    }
    case ipc::CompletionType::object_gone:
    case ipc::CompletionType::seal_failed: return handle_object(record, aftermath);
    case ipc::CompletionType::group_changed: {
      auto changed = ipc::read_group_changed(record.body);
      if (!changed) return changed.error();
      locked([&](Protocol& protocol) { protocol.works.group_changed(*changed); });
      return {};
    }
    case ipc::CompletionType::segment_gone: {
      auto gone = ipc::read_segment_gone(record.body);
      if (!gone) return gone.error();
      aftermath.segments_gone.push_back(gone->segment);
      return {};
    }
    case ipc::CompletionType::in_place_over: {
      auto over = ipc::read_in_place_over(record.body);
      if (!over) return over.error();
      aftermath.in_place_over.push_back(over->segment);
      return {};
    }
    case ipc::CompletionType::memory_wanted: aftermath.memory_wanted = true; return {};
  }
  return Error(Code::invalid, fmt::format("the daemon sent a record of unknown type {}", record.type),
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
  locked([&](Protocol& protocol) {
    protocol.works.over(done->work, std::move(outcome), std::move(*done), aftermath.works);
  });
  return {};
}

Result<void> Connection::handle_object(const ipc::Record& record, Aftermath& aftermath) {
  if (static_cast<ipc::CompletionType>(record.type) == ipc::CompletionType::object_gone) {
    auto gone = ipc::read_object_gone(record.body);
    if (!gone) return gone.error();
    aftermath.gone.push_back(gone->object);
    if (protocol_.has_seal_errors()) locked([&](Protocol& protocol) { protocol.releases.object_gone(gone->object); });
    return {};
  }
  auto failed = ipc::read_seal_failed(record.body);
  if (!failed) return failed.error();
  // The object was never made, so its regions are free again. Its users are told why, and that the call which made it
  // could not report the error.
  aftermath.gone.push_back(failed->object);
  const Error& why = failed->error;
  const Error told(
      why.code(),
      "the ref's object was not stored; the daemon refused it after the call that made it: " + why.message(),
      why.hint(), why.ranks());
  locked([&](Protocol& protocol) { protocol.releases.seal_failed(failed->object, told); });
  return {};
}

// ---- calling back ----

void Connection::on_done(const std::shared_ptr<WorkState>& work, std::function<void()> callback) {
  if (!locked([&](Protocol& protocol) { return protocol.works.call_back(work, callback); })) callback();
}

void Connection::run_callbacks() {
  while (protocol_.has_callbacks() && !inherited()) {
    const auto due = locked([](Protocol& protocol) { return protocol.works.take_callbacks(); });
    const CallDeadline none;
    for (const auto& callback : due) callback();
  }
}

// ---- waiting ----

bool Connection::wait(const std::function<bool()>& over, SteadyTime until) {
  collect();
  if (!protocol_.has_callbacks() && over()) return true;
  auto next_look = steady_clock::now() + look_up_interval;
  for (;;) {
    const auto seen = reading_.seen();
    run_callbacks();
    if (over()) return true;
    const auto now = steady_clock::now();
    if (!alive() || now >= until) return over();
    if (now >= next_look) {
      if (interrupted()) return over();
      next_look = now + look_up_interval;
    }
    const auto latest = std::min(until, next_look);
    if (!reading_.take_or_wait(seen, latest)) continue;
    const Turn::Having turn(reading_);
    read_for_all(over, latest);
  }
}

void Connection::read_for_all(const std::function<bool()>& over, SteadyTime until) {
  constexpr unsigned rounds_per_look = 8;  // how many rounds pass between looks at the clock
  ipc::Backoff backoff;
  const auto begin = steady_clock::now();
  while (!over() && alive() && !protocol_.has_callbacks()) {
    if (completions_.any() && drain()) {
      backoff.reset();
      continue;
    }
    backoff.step();
    if (backoff.rounds() % rounds_per_look != 0) continue;
    const auto now = steady_clock::now();
    if (now >= until) break;
    if (now >= begin + patience_.poll_max(backoff)) completions_.sleep(over, until);
  }
  patience_.waited(steady_clock::now() - begin);
  // Once in a while, and whenever nothing has come for long: checks that the daemon is still there.
  look_at_socket();
}

void Connection::wake_waiters() {
  reading_.tell();
  completions_.wake_sleepers();
}

void Connection::collect() {
  if (alive() && completions_.any()) drain();
}

// ---- event loops ----

void Connection::poll() {
  if (inherited()) return;
  const bool watched = completions_.is_watched();
  // Clears the signal before reading, so that nothing that comes meanwhile is missed.
  if (watched) completions_.heard();
  if (alive()) {
    drain();
    // Arms again before the last read, so that nothing that comes meanwhile is missed.
    if (watched && completions_.rearm()) drain();
    // An event loop may call because of the socket.
    if (watched) static_cast<void>(receive_if_free());
    else look_at_socket();
  } else {
    completions_.silence();
  }
  run_callbacks();
}

Result<int> Connection::event_fd() {
  if (!alive()) return end_error();
  return completions_.event_fd(exchange_.fd());
}

}  // namespace muster::detail
