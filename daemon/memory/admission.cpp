#include "memory/admission.hpp"

#include <algorithm>
#include <exception>
#include <utility>

#include <fmt/format.h>

#include "base/heap_reserve.hpp"

namespace musterd {

using muster::Code;
using muster::Error;

std::optional<Admission::WaiterId> Admission::request(Payer payer, Size size, TimePoint deadline, Attempt attempt,
                                                      GiveUp give_up, Effort effort) {
  const auto found = lines_.find(payer.user);
  const bool first = found == lines_.end() || found->second.waiters.empty();
  auto done = first                 ? attempt(Turn::its_own)
              : size == Size::small ? attempt(Turn::before_others)
                                    : others_wait(found->second);
  if (done) return std::nullopt;
  Line& line = lines_[payer.user];
  if (done.error().code() != Code::out_of_memory || line.waiters.size() - line.trying >= waiters_max_) {
    drop_empty_lines();
    give_up(done.error());
    return std::nullopt;
  }
  Waiter& waiter = waiters_.try_emplace(last_id_ + 1).first->second;
  waiter.id = ++last_id_;
  waiter.line = &line;
  waiter.size = size;
  waiter.client = payer.client;
  waiter.deadline = deadline;
  waiter.effort = effort;
  waiter.outcome = std::move(done);
  waiter.attempt = std::move(attempt);
  waiter.give_up = std::move(give_up);
  waiter.tried_at_front = first;
  link(waiter);
  return waiter.id;
}

void Admission::link(Waiter& waiter) {
  waiter.line->waiters.push_back(waiter);
  if (waiter.size == Size::small) waiter.line->small.push_back(waiter);
  by_deadline_.insert(waiter);
  if (waiter.client) by_client_.insert(waiter);
}

/// Takes a waiter out of all lists.
Admission::Waiters::node_type Admission::take(Waiters::iterator found) {
  Waiter& waiter = found->second;
  Line& line = *waiter.line;
  line.waiters.erase(line.waiters.iterator_to(waiter));
  if (waiter.size == Size::small) line.small.erase(line.small.iterator_to(waiter));
  by_deadline_.erase(by_deadline_.iterator_to(waiter));
  if (waiter.client) by_client_.erase(by_client_.iterator_to(waiter));
  return waiters_.extract(found);
}

void Admission::cancel(WaiterId id) {
  const auto waiter = waiters_.find(id);
  if (waiter == waiters_.end()) return;
  take(waiter);
  drop_empty_lines();
}

muster::Result<void> Admission::others_wait(const Line& line) {
  return Error(Code::out_of_memory,
               line.waiters.size() == 1 ? "1 request waits for memory already"
                                        : fmt::format("{} requests wait for memory already", line.waiters.size()),
               "free refs and results that are not needed, or start the daemon with a larger --memory");
}

std::string Admission::why_it_waits(ClientId client) const {
  const auto first = by_client_.find(client);
  return first == by_client_.end() ? std::string() : first->outcome.error().message();
}

void Admission::drop_empty_lines() {
  if (retrying_) return;
  std::erase_if(lines_, [](const auto& entry) { return entry.second.waiters.empty(); });
}

/// Tries the front of the line, and then its first small request. True if the line got shorter.
bool Admission::try_line(Line& line, std::size_t& left) {
  if (line.waiters.empty()) return false;
  if (try_one(line.waiters.front(), Turn::its_own, left)) return true;
  // The front may not have what is left for small requests, so a small one may still succeed.
  return !line.small.empty() && &line.small.front() != &line.waiters.front() &&
         try_one(line.small.front(), Turn::before_others, left);
}

/// Tries one request. True if it waits no more.
bool Admission::try_one(Waiter& waiter, Turn turn, std::size_t& left) {
  const WaiterId id = waiter.id;
  const Effort effort = waiter.effort;
  Line& line = *waiter.line;
  waiter.tried_at_front |= &line.waiters.front() == &waiter;
  // The waiter keeps its place meanwhile. The attempt may end the waiter, and must outlive that, so it is moved out.
  Attempt attempt = std::exchange(waiter.attempt, nullptr);
  line.trying = 1;
  muster::Result<void> done;
  bool threw = false;
  try {
    done = attempt(turn);
  } catch (const std::exception&) {
    threw = true;
  }
  line.trying = 0;
  const bool in_vain = !threw && !done && done.error().code() == Code::out_of_memory;
  left -= std::min(left, in_vain ? 1 : done && !threw ? effort.serve : effort.give_up);
  const auto found = waiters_.find(id);
  if (found == waiters_.end()) return true;
  if (in_vain) {
    waiter.attempt = std::move(attempt);
    waiter.outcome = std::move(done);
    return false;
  }
  const auto ended = take(found);
  if (threw || !done) ended.mapped().give_up(threw ? no_heap() : done.error());
  return true;
}

void Admission::retry() {
  // An attempt that brings memory back succeeds, and all are tried again after that anyway.
  if (retrying_) return;
  again_ = true;
  if (!goes_on_) go_on();
}

void Admission::go_on() {
  struct Retrying {
    Admission& admission;
    ~Retrying() {
      admission.retrying_ = false;
      admission.drop_empty_lines();
    }
  };
  retrying_ = true;
  const Retrying retrying{*this};
  for (std::size_t left = effort_max_; left > 0;) {
    const auto line = next_line();
    goes_on_ = line != lines_.end();
    if (!goes_on_) return;
    tried_last_ = line->first;
    again_ |= try_line(line->second, left);
  }
}

/// The line whose turn it is. The end if all have been tried since the last success.
Admission::Lines::iterator Admission::next_line() {
  if (tried_last_)
    if (const auto next = lines_.upper_bound(*tried_last_); next != lines_.end()) return next;
  tried_last_.reset();
  return std::exchange(again_, false) ? lines_.begin() : lines_.end();
}

bool Admission::has_untried_front() const {
  return std::any_of(lines_.begin(), lines_.end(), [](const auto& entry) {
    const auto& waiters = entry.second.waiters;
    return !waiters.empty() && !waiters.front().tried_at_front;
  });
}

void Admission::expire(TimePoint now) {
  bool any = false;
  for (std::size_t left = effort_max_; left > 0 && !by_deadline_.empty() && by_deadline_.begin()->deadline <= now;) {
    const auto late = take(waiters_.find(by_deadline_.begin()->id));
    left -= std::min(left, late.mapped().effort.give_up);
    late.mapped().give_up(late.mapped().outcome.error());
    any = true;
  }
  if (any) retry();
  drop_empty_lines();
}

void Admission::forget(ClientId client) {
  for (auto own = by_client_.find(client); own != by_client_.end(); own = by_client_.find(client))
    take(waiters_.find(own->id));
  drop_empty_lines();
}

std::optional<TimePoint> Admission::next_deadline() const {
  if (by_deadline_.empty()) return std::nullopt;
  return by_deadline_.begin()->deadline;
}

}  // namespace musterd
