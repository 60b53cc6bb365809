#include "ordered_mutex.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace muster::detail {

namespace {

constexpr std::array<const char*, 7> names{"forks",  "submissions", "completions", "socket",
                                           "memory", "state",       "connections"};

}  // namespace

bool HeldLocks::may_wait_for(Rank rank) const {
  return std::all_of(held_.begin() + static_cast<std::ptrdiff_t>(rank), held_.end(),
                     [](const auto count) { return count == 0; });
}

HeldLocks& HeldLocks::of_this_thread() {
  static thread_local HeldLocks held;
  return held;
}

void HeldLocks::check(Rank rank) const {
  if (may_wait_for(rank)) return;
  for (std::size_t held = 0; held < ranks; ++held)
    if (held_[held] > 0)
      std::fprintf(stderr,
                   "wrong order of locks: a thread waits for %s while it holds %s (see client/core/README.md)\n",
                   names[static_cast<std::size_t>(rank)], names[held]);
  std::abort();
}

}  // namespace muster::detail
