// Locks in the wrong order are caught when they are taken, whether or not another thread holds them then.
#include <catch2/catch.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <mutex>

#include "base/ordered_mutex.hpp"

namespace {

using muster::detail::Condition;
using muster::detail::HeldLocks;
using muster::detail::OrderedMutex;
using muster::detail::Rank;

/// Whether a child that runs `body` aborts.
bool aborts(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(STDERR_FILENO);  // its message is expected
    std::signal(SIGABRT, SIG_DFL);
    body();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

TEST_CASE("a thread that holds a lock may wait only for one of a higher rank") {
  HeldLocks held;
  CHECK(held.may_wait_for(Rank::forks));
  held.took(Rank::socket);
  CHECK_FALSE(held.may_wait_for(Rank::submissions));
  CHECK_FALSE(held.may_wait_for(Rank::socket));
  CHECK(held.may_wait_for(Rank::memory));
  held.took(Rank::state);
  CHECK_FALSE(held.may_wait_for(Rank::memory));
  // In any order of release.
  held.gave(Rank::socket);
  CHECK_FALSE(held.may_wait_for(Rank::socket));
  held.gave(Rank::state);
  CHECK(held.may_wait_for(Rank::forks));
}

TEST_CASE("a wrong order of locks ends the process") {
  OrderedMutex first(Rank::memory), second(Rank::state);
  CHECK_FALSE(aborts([&] {
    const std::lock_guard one(first);
    const std::lock_guard two(second);
  }));
  CHECK(aborts([&] {
    const std::lock_guard two(second);
    const std::lock_guard one(first);
  }));
  CHECK(aborts([&] {
    const std::lock_guard once(first);
    first.lock();
  }));
}

TEST_CASE("try_lock() may take locks in any order") {
  OrderedMutex first(Rank::memory), second(Rank::state);
  const std::lock_guard two(second);
  const std::unique_lock one(first, std::try_to_lock);
  CHECK(one.owns_lock());
}

TEST_CASE("a lock is held again after a wait under it") {
  OrderedMutex mutex(Rank::state);
  Condition condition;
  std::unique_lock lock(mutex);
  condition.wait_until(lock, std::chrono::steady_clock::now());
  CHECK(lock.owns_lock());
  CHECK_FALSE(HeldLocks::of_this_thread().may_wait_for(Rank::state));
  lock.unlock();
  CHECK(HeldLocks::of_this_thread().may_wait_for(Rank::state));
}

}  // namespace
