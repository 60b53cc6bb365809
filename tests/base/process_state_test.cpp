#include "base/process_state.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>

using namespace musterd;

namespace {

/// A child that does nothing until it is ended.
struct Child {
  pid_t pid = ::fork();
  Child() {
    if (pid == 0)
      while (true) ::pause();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  void signal_and_wait(int signal, int until) const {
    ::kill(pid, signal);
    siginfo_t info{};
    REQUIRE(::waitid(P_PID, static_cast<id_t>(pid), &info, until | WNOWAIT) == 0);
  }
};

}  // namespace

TEST_CASE("a process that lives has no end") {
  CHECK_FALSE(how_it_ends(::getpid()));
  CHECK_FALSE(is_stopped(::getpid()));
  CHECK_FALSE(how_it_ends(0));
}

TEST_CASE("how a process ended is known until its parent has waited for it") {
  const Child killed;
  killed.signal_and_wait(SIGKILL, WEXITED);
  CHECK(how_it_ends(killed.pid) == "was killed by signal 9 (Killed)");
  const pid_t exits = ::fork();
  if (exits == 0) ::_exit(3);
  siginfo_t info{};
  REQUIRE(::waitid(P_PID, static_cast<id_t>(exits), &info, WEXITED | WNOWAIT) == 0);
  CHECK(how_it_ends(exits) == "exited with status 3");
  ::waitpid(exits, nullptr, 0);
  CHECK_FALSE(how_it_ends(exits));
}

TEST_CASE("a stopped process is seen as stopped") {
  const Child child;
  child.signal_and_wait(SIGSTOP, WSTOPPED);
  CHECK(is_stopped(child.pid));
}
