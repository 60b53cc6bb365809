// Children that end well, hang, crash, print too much, or leave others behind.
#include <catch2/catch.hpp>

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <string>

#include <muster/ipc/run_child.hpp>

namespace muster::ipc {
namespace {

using How = ChildEnd::How;

ChildEnd shell(const std::string& script, const ChildLimits& limits = {}) {
  return run_child({"/bin/sh", {"sh", "-c", script}}, limits);
}

TEST_CASE("a child's output and status come back") {
  const auto end = shell("echo one; echo two >&2; exit 3");
  CHECK(end.how == How::exited);
  CHECK(end.number == 3);
  CHECK(end.out == "one\n");
  CHECK(end.error == "two\n");
}

TEST_CASE("a child has no input to wait for") { CHECK(shell("cat; echo end").out == "end\n"); }

TEST_CASE("all that a child prints before it ends is read") {
  const auto end = shell("head -c 200000 /dev/zero | tr '\\0' x");
  CHECK(end.how == How::exited);
  CHECK(end.out == std::string(200'000, 'x'));
}

TEST_CASE("a child that hangs is ended at the deadline") {
  ChildLimits limits;
  limits.time = std::chrono::milliseconds(300);
  // exec: the process that is ended is the one that hangs.
  const auto end = shell("echo $$; exec sleep 1000", limits);
  CHECK(end.how == How::timed_out);
  const pid_t pid = std::stoi(end.out);
  CHECK(::kill(pid, 0) == -1);
  CHECK(errno == ESRCH);
}

TEST_CASE("a child that closes its output and hangs is ended, too") {
  ChildLimits limits;
  limits.time = std::chrono::milliseconds(300);
  CHECK(shell("exec sleep 1000 >&- 2>&-", limits).how == How::timed_out);
}

TEST_CASE("a child that closes its output after it has said something, and hangs, has finished") {
  const auto end = shell("echo said; exec sleep 1000 >&- 2>&-");
  CHECK(end.how == How::finished);
  CHECK(end.out == "said\n");
}

TEST_CASE("a child has no descriptor but its standard streams") {
  const Fd other(::dup(STDERR_FILENO));  // not closed on exec
  REQUIRE(other.get() > 2);
  // The last one is that of the shell's own look into the folder.
  CHECK(shell("set -- /proc/self/fd/*; echo $#").out == "4\n");
}

TEST_CASE("a child is ended by signals that its starter ignores") {
  auto* const before = std::signal(SIGTERM, SIG_IGN);
  const auto end = shell("kill -TERM $$; echo alive");
  std::signal(SIGTERM, before);
  CHECK(end.how == How::killed);
  CHECK(end.number == SIGTERM);
}

TEST_CASE("a child that prints without an end is ended") {
  ChildLimits limits;
  limits.out_bytes = 100'000;
  const auto end = shell("exec yes", limits);
  CHECK(end.how == How::too_much);
  CHECK(end.out.size() < 200'000);
}

TEST_CASE("a child that prints too much and ends by itself did print too much") {
  ChildLimits limits;
  limits.out_bytes = 10;
  CHECK(shell("echo 01234567890123", limits).how == How::too_much);
}

TEST_CASE("of standard error the end is kept") {
  ChildLimits limits;
  limits.error_bytes = 100;
  const auto end = shell("yes | head -n 100000 >&2; echo last >&2", limits);
  CHECK(end.how == How::exited);
  CHECK(end.error.size() <= 100);
  CHECK(end.error.ends_with("y\nlast\n"));
}

TEST_CASE("a child that a signal ends is told from one that exits") {
  const auto end = shell("kill -ABRT $$");
  CHECK(end.how == How::killed);
  CHECK(end.number == SIGABRT);
}

TEST_CASE("a process that a child leaves behind is not waited for") {
  const auto end = shell("sleep 1000 & echo $!");
  CHECK(end.how == How::exited);
  CHECK(::kill(std::stoi(end.out), SIGKILL) == 0);
}

TEST_CASE("the last line is the last one that has something in it") {
  CHECK(last_line("") == "");
  CHECK(last_line("\n\r\n") == "");
  CHECK(last_line("one") == "one");
  CHECK(last_line("one\ntwo\r\n\n") == "two");
}

TEST_CASE("a program that isn't there is an error") {
  const auto end = run_child({"/nowhere/musterd", {"musterd"}}, {});
  CHECK(end.how == How::not_started);
  CHECK(end.number == ENOENT);
}

}  // namespace
}  // namespace muster::ipc
