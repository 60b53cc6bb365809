#include "memory/admission.hpp"

#include <algorithm>
#include <utility>

namespace musterd {

using muster::Code;
using muster::Error;

WaiterId Admission::request(ClientId client, TimePoint deadline, Attempt attempt, GiveUp give_up) {
  const WaiterId id = next_id_++;
  Error last_error(Code::out_of_memory, std::to_string(waiters_.size()) + " requests wait for memory already",
                   "free refs and results that are not needed, or start the daemon with a larger --memory");
  const bool first = waiters_.empty() && !retrying_;
  if (first) {
    auto done = attempt();
    if (done) return id;
    if (done.error().code() != Code::out_of_memory) {
      give_up(done.error());
      return id;
    }
    last_error = done.error();
  }
  if (waiters_.size() >= waiters_max_) {
    give_up(last_error);
    return id;
  }
  waiters_.push_back({id, client, deadline, std::move(attempt), std::move(give_up), std::move(last_error)});
  if (first) tried_ = waiters_.front().id;
  return id;
}

void Admission::retry() {
  // An attempt may bring memory back itself, which asks for another retry.
  if (retrying_) return;
  retrying_ = true;
  while (!waiters_.empty()) {
    // Out of the list while it is tried: the attempt may forget it.
    std::list<Waiter> front;
    front.splice(front.end(), waiters_, waiters_.begin());
    trying_ = front.front().id;
    trying_client_ = front.front().client;
    auto done = front.front().attempt();
    const bool forgotten = std::exchange(trying_, 0) == 0;
    if (done || forgotten) continue;
    if (done.error().code() != Code::out_of_memory) {
      front.front().give_up(done.error());
      continue;
    }
    front.front().last_error = done.error();
    tried_ = front.front().id;
    waiters_.splice(waiters_.begin(), front);
    break;
  }
  retrying_ = false;
}

void Admission::expire(TimePoint now) {
  std::list<Waiter> late;
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    const auto next = std::next(it);
    if (it->deadline <= now) late.splice(late.end(), waiters_, it);
    it = next;
  }
  for (const auto& waiter : late) waiter.give_up(waiter.last_error);
  if (!late.empty()) retry();
}

void Admission::forget(ClientId client) {
  if (trying_client_ == client) trying_ = 0;
  std::erase_if(waiters_, [&](const Waiter& waiter) { return waiter.client == client; });
}

void Admission::forget_waiter(WaiterId id) {
  if (trying_ == id) trying_ = 0;
  std::erase_if(waiters_, [&](const Waiter& waiter) { return waiter.id == id; });
}

std::optional<TimePoint> Admission::next_deadline() const {
  if (waiters_.empty()) return std::nullopt;
  return std::min_element(waiters_.begin(), waiters_.end(),
                          [](const auto& a, const auto& b) { return a.deadline < b.deadline; })
      ->deadline;
}

}  // namespace musterd
