// Timeouts that can be added to the clock without overflow. Callers pass the largest number that there is to say "for
// ever".
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>

#include <muster/ipc/text.hpp>
#include <muster/ipc/time_limits.hpp>
#include <muster/result.hpp>

namespace muster::detail {

using ipc::timeout_max;

/// Limits a timeout to 0 to timeout_max. Compares in the caller's unit: milliseconds::max() is too large for
/// nanoseconds.
template <class Rep, class Period>
constexpr std::chrono::nanoseconds bounded(std::chrono::duration<Rep, Period> timeout) {
  using Given = std::chrono::duration<Rep, Period>;
  return std::clamp(timeout, Given::zero(), Given(timeout_max));
}

/// Limits a negative timeout to -timeout_max to 0, for messages.
template <class Rep, class Period>
constexpr std::chrono::nanoseconds bounded_below(std::chrono::duration<Rep, Period> timeout) {
  using Given = std::chrono::duration<Rep, Period>;
  return std::clamp(timeout, -Given(timeout_max), Given::zero());
}

/// Checks the timeout that a caller gave. Without a value, the caller gave none.
template <class Rep, class Period>
Result<void> check_timeout(std::optional<std::chrono::duration<Rep, Period>> timeout) {
  if (!timeout || timeout->count() >= 0) return {};
  return Error(Code::invalid, "a timeout of -" + ipc::seconds_text(-bounded_below(*timeout)) + " is not valid",
               "give 0 seconds or more");
}

/// What is left now of a timeout that began at `begin`, if there is one.
inline std::optional<std::chrono::nanoseconds> left_of(std::optional<std::chrono::nanoseconds> timeout,
                                                       std::chrono::steady_clock::time_point begin) {
  if (timeout) *timeout = std::max(*timeout - (std::chrono::steady_clock::now() - begin), std::chrono::nanoseconds(0));
  return timeout;
}

}  // namespace muster::detail
