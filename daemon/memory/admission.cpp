#include "memory/admission.hpp"

#include <algorithm>
#include <utility>

namespace musterd {

using muster::Code;
using muster::Error;

void Admission::request(Payer payer, Size size, TimePoint deadline, Attempt attempt, GiveUp give_up) {
  const auto line = lines_.find(payer.user);
  const bool first = line == lines_.end() || (line->second.waiters.empty() && !line->second.trying);
  auto done = first                 ? attempt(Turn::its_own)
              : size == Size::small ? attempt(Turn::before_others)
                                    : others_wait(line->second);
  if (done) return;
  if (done.error().code() != Code::out_of_memory) return give_up(done.error());
  auto& waiters = lines_[payer.user].waiters;
  if (waiters.size() >= waiters_max_) return give_up(done.error());
  waiters.push_back({payer.client, deadline, std::move(attempt), std::move(give_up), done.error(), first});
}

muster::Result<void> Admission::others_wait(const Line& line) {
  return Error(Code::out_of_memory, std::to_string(line.waiters.size()) + " requests wait for memory already",
               "free refs and results that are not needed, or start the daemon with a larger --memory");
}

void Admission::drop_empty_lines() {
  std::erase_if(lines_, [](const auto& entry) { return entry.second.waiters.empty() && !entry.second.trying; });
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
  auto done = front.front().attempt(Turn::its_own);
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
  drop_empty_lines();
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
  if (!retrying_) drop_empty_lines();
}

void Admission::forget(ClientId client) {
  for (auto& [user, line] : lines_) {
    if (line.trying && line.client == client) line.forgotten = true;
    std::erase_if(line.waiters, [&](const Waiter& waiter) { return waiter.client == client; });
  }
  if (!retrying_) drop_empty_lines();
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
