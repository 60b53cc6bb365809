#include "base/process_state.hpp"

#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdio>
#include <utility>

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

int pidfd_of(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

bool is_linux_6_15() {
  utsname name{};
  ::uname(&name);
  int major = 0;
  int minor = 0;
  std::sscanf(name.release, "%d.%d", &major, &minor);
  return std::pair(major, minor) >= std::pair(6, 15);
}

}  // namespace

TEST_CASE("a process that lives has no end") {
  const int self = pidfd_of(::getpid());
  CHECK_FALSE(how_it_ends(::getpid(), -1));
  CHECK_FALSE(how_it_ends(::getpid(), self));
  ::close(self);
  CHECK_FALSE(is_stopped(::getpid()));
  CHECK_FALSE(how_it_ends(0, -1));
}

TEST_CASE("how a process ended is known until its parent has waited for it") {
  const Child killed;
  killed.signal_and_wait(SIGKILL, WEXITED);
  CHECK(how_it_ends(killed.pid, -1) == "was killed by signal 9 (Killed)");
  const pid_t exits = ::fork();
  if (exits == 0) ::_exit(3);
  siginfo_t info{};
  REQUIRE(::waitid(P_PID, static_cast<id_t>(exits), &info, WEXITED | WNOWAIT) == 0);
  const int pidfd = pidfd_of(exits);
  CHECK(how_it_ends(exits, -1) == "exited with status 3");
  CHECK(how_it_ends(exits, pidfd) == "exited with status 3");
  ::waitpid(exits, nullptr, 0);
  CHECK_FALSE(how_it_ends(exits, -1));
  const auto told = how_it_ends(exits, pidfd);
  if (is_linux_6_15()) CHECK(told == "exited with status 3");
  else CHECK_FALSE(told);
  ::close(pidfd);
}

TEST_CASE("a stopped process is seen as stopped") {
  const Child child;
  child.signal_and_wait(SIGSTOP, WSTOPPED);
  CHECK(is_stopped(child.pid));
}
