#include "memory/admission.hpp"

#include <algorithm>
#include <utility>

namespace musterd {

using muster::Code;
using muster::Error;

std::optional<Admission::WaiterId> Admission::request(Payer payer, Size size, TimePoint deadline, Attempt attempt,
                                                      GiveUp give_up) {
  const auto line = lines_.find(payer.user);
  const bool first = line == lines_.end() || (line->second.waiters.empty() && !line->second.trying);
  auto done = first                 ? attempt(Turn::its_own)
              : size == Size::small ? attempt(Turn::before_others)
                                    : others_wait(line->second);
  if (done) return std::nullopt;
  auto& waiters = lines_[payer.user].waiters;
  if (done.error().code() != Code::out_of_memory || waiters.size() >= waiters_max_) {
    give_up(done.error());
    return std::nullopt;
  }
  waiters.push_back(
      {++last_id_, size, payer.client, deadline, std::move(attempt), std::move(give_up), done.error(), first});
  return last_id_;
}

void Admission::cancel(WaiterId waiter) {
  for (auto& [user, line] : lines_) line.waiters.remove_if([&](const Waiter& each) { return each.id == waiter; });
  if (!retrying_) drop_empty_lines();
}

muster::Result<void> Admission::others_wait(const Line& line) {
  return Error(Code::out_of_memory, std::to_string(line.waiters.size()) + " requests wait for memory already",
               "free refs and results that are not needed, or start the daemon with a larger --memory");
}

void Admission::drop_empty_lines() {
  std::erase_if(lines_, [](const auto& entry) { return entry.second.waiters.empty() && !entry.second.trying; });
}

/// True if the line got shorter.
bool Admission::try_line(Line& line) {
  if (line.waiters.empty()) return false;
  if (try_one(line, line.waiters.begin(), Turn::its_own)) return true;
  // What is left for small requests is not the front's.
  const auto small = std::find_if(line.waiters.begin(), line.waiters.end(),
                                  [](const Waiter& waiter) { return waiter.size == Size::small; });
  return small != line.waiters.end() && small != line.waiters.begin() && try_one(line, small, Turn::before_others);
}

/// True if it waits no more.
bool Admission::try_one(Line& line, std::list<Waiter>::iterator waiter, Turn turn) {
  const bool is_front = waiter == line.waiters.begin();
  // Out of the list while it is tried: the attempt may forget it.
  std::list<Waiter> tried;
  tried.splice(tried.end(), line.waiters, waiter);
  line.client = tried.front().client;
  line.forgotten = false;
  line.trying = true;
  auto done = tried.front().attempt(turn);
  line.trying = false;
  if (done || line.forgotten) return true;
  if (done.error().code() != Code::out_of_memory) {
    tried.front().give_up(done.error());
    return true;
  }
  tried.front().last_error = done.error();
  tried.front().tried_at_front |= is_front;
  // Back to where it was: before the first that came later.
  const auto place = std::find_if(line.waiters.begin(), line.waiters.end(),
                                  [&](const Waiter& each) { return each.id > tried.front().id; });
  line.waiters.splice(place, tried);
  return false;
}

void Admission::retry() {
  // An attempt may bring memory back itself, which asks for another retry.
  if (retrying_) return;
  retrying_ = true;
  for (bool progress = true; progress;) {
    progress = false;
    for (auto& [user, line] : lines_) progress |= try_line(line);
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
