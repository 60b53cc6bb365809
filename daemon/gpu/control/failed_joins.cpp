#include "gpu/control/failed_joins.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace musterd::gpu {

using muster::Error;

Why why_of(const Error& error, const Why& no_memory) noexcept try {
  return std::make_shared<const Error>(error);
} catch (const std::exception&) {
  return no_memory;
}

const FailedJoins::Failed* FailedJoins::find(const Team& team) const {
  const auto found = std::ranges::find(failed_, team, &Failed::team);
  return found == failed_.end() ? nullptr : &*found;
}

FailedJoins::Failed& FailedJoins::known(const Team& team) {
  const auto found = std::ranges::find(failed_, team, &Failed::team);
  if (found != failed_.end()) return *found;
  failed_.push_back({team, 0, {}, nullptr, {}});
  const auto is_of_user = [&](const Failed& one) { return one.team.user == team.user; };
  const auto of_user = static_cast<std::size_t>(std::ranges::count_if(failed_, is_of_user));
  if (of_user > settings_.known_of_user_max) failed_.erase(std::ranges::find_if(failed_, is_of_user));
  else if (failed_.size() > settings_.known_max) failed_.pop_front();
  return failed_.back();
}

/// Without memory for it, the failure does not count.
Why FailedJoins::failed(const Team& team, const Why& why) noexcept try {
  Failed& one = known(team);
  if (++one.in_a_row < settings_.tries) return why;
  one.pause = std::clamp(2 * one.pause, settings_.pause_min, settings_.pause_max);
  one.until.reset();
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(one.pause).count();
  one.why =
      std::make_shared<const Error>(why->code(), fmt::format("{} ({} failures in a row)", why->message(), one.in_a_row),
                                    fmt::format("after that nobody tries again for {} s; {}", seconds, why->hint()));
  return one.why;
} catch (const std::exception&) {
  return why;
}

void FailedJoins::joined(const Team& team) noexcept {
  failed_.remove_if([&](const Failed& one) { return one.team == team; });
}

std::size_t FailedJoins::in_a_row(const Team& team) const {
  const Failed* const one = find(team);
  return one ? one->in_a_row : 0;
}

Why FailedJoins::pausing(const Team& team) const {
  const Failed* const one = find(team);
  return one ? one->why : nullptr;
}

void FailedJoins::tick(TimePoint now) {
  for (auto& one : failed_) {
    if (!one.why) continue;
    if (!one.until) one.until = now + one.pause;
    if (now < *one.until) continue;
    one.why = nullptr;
    one.until.reset();
  }
}

std::optional<TimePoint> FailedJoins::next_deadline() const {
  std::optional<TimePoint> earliest;
  for (const auto& one : failed_)
    if (one.why) earliest = std::min(earliest.value_or(TimePoint::max()), one.until.value_or(TimePoint{}));
  return earliest;
}

}  // namespace musterd::gpu
