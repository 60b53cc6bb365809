#include "memory/admission.hpp"

#include <algorithm>
#include <utility>

namespace musterd {

using muster::Code;
using muster::Error;

void Admission::request(Payer payer, TimePoint deadline, Attempt attempt, GiveUp give_up) {
  Line& line = lines_[payer.user];
  Error last_error(Code::out_of_memory, std::to_string(line.waiters.size()) + " requests wait for memory already",
                   "free refs and results that are not needed, or start the daemon with a larger --memory");
  const bool first = line.waiters.empty() && !line.trying;
  if (first) {
    auto done = attempt();
    if (done) return;
    if (done.error().code() != Code::out_of_memory) return give_up(done.error());
    last_error = done.error();
  }
  if (line.waiters.size() >= waiters_max_) return give_up(last_error);
  line.waiters.push_back(
      {payer.client, deadline, std::move(attempt), std::move(give_up), std::move(last_error), first});
}

/// True if the line got shorter.
bool Admission::try_front(Line& line) {
  if (line.waiters.empty()) return false;
  // Out of the list while it is tried: the attempt may forget it.
  std::list<Waiter> front;
  front.splice(front.end(), line.waiters, line.waiters.begin());
  line.client = front.front().client;
  line.forgotten = false;
  line.trying = true;
  auto done = front.front().attempt();
  line.trying = false;
  if (done || line.forgotten) return true;
  if (done.error().code() != Code::out_of_memory) {
    front.front().give_up(done.error());
    return true;
  }
  front.front().last_error = done.error();
  front.front().tried_at_front = true;
  line.waiters.splice(line.waiters.begin(), front);
  return false;
}

void Admission::retry() {
  // An attempt may bring memory back itself, which asks for another retry.
  if (retrying_) return;
  retrying_ = true;
  for (bool progress = true; progress;) {
    progress = false;
    for (auto& [user, line] : lines_) progress |= try_front(line);
  }
  retrying_ = false;
}

bool Admission::has_untried_front() const {
  return std::any_of(lines_.begin(), lines_.end(), [](const auto& entry) {
    const auto& waiters = entry.second.waiters;
    return !waiters.empty() && !waiters.front().tried_at_front;
  });
}

void Admission::expire(TimePoint now) {
  std::list<Waiter> late;
  for (auto& [user, line] : lines_)
    for (auto it = line.waiters.begin(); it != line.waiters.end();) {
      const auto next = std::next(it);
      if (it->deadline <= now) late.splice(late.end(), line.waiters, it);
      it = next;
    }
  for (const auto& waiter : late) waiter.give_up(waiter.last_error);
  if (!late.empty()) retry();
}

void Admission::forget(ClientId client) {
  for (auto& [user, line] : lines_) {
    if (line.trying && line.client == client) line.forgotten = true;
    std::erase_if(line.waiters, [&](const Waiter& waiter) { return waiter.client == client; });
  }
}

std::optional<TimePoint> Admission::next_deadline() const {
  std::optional<TimePoint> earliest;
  for (const auto& [user, line] : lines_)
    for (const auto& waiter : line.waiters) earliest = std::min(earliest.value_or(waiter.deadline), waiter.deadline);
  return earliest;
}

std::size_t Admission::waiting() const {
  std::size_t count = 0;
  for (const auto& [user, line] : lines_) count += line.waiters.size();
  return count;
}

}  // namespace musterd
