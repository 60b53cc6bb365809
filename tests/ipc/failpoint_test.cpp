// Failpoints end or stop a process exactly where and when the environment says, and log which were hit.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include <catch2/catch.hpp>
#include <muster/ipc/failpoint.hpp>

namespace muster::ipc {
namespace {

/// How a child ends that hits `sealed` and then `joined`, twice each, in this environment. A stopped child is killed.
std::string fate(const std::string& plan, const std::string& log = "") {
  const auto child = fork();
  if (child == 0) {
    close(STDERR_FILENO);
    setenv("MUSTER_FAILPOINT", plan.c_str(), 1);
    setenv("MUSTER_FAILPOINT_LOG", log.c_str(), 1);
    for (int i = 0; i < 2; ++i) {
      hit(Failpoint::sealed);
      hit(Failpoint::joined);
    }
    _exit(7);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, WUNTRACED) == child);
  if (WIFSTOPPED(status)) {
    kill(child, SIGKILL);
    REQUIRE(waitpid(child, &status, 0) == child);
    return "stopped";
  }
  return WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                             : "status " + std::to_string(WEXITSTATUS(status));
}

TEST_CASE("without an environment nothing happens") { REQUIRE(fate("") == "status 7"); }

TEST_CASE("a named failpoint ends or stops the process") {
  REQUIRE(fate("sealed=kill") == "signal " + std::to_string(SIGKILL));
  REQUIRE(fate("joined=stop") == "stopped");
  REQUIRE(fate("joined=exit") == "status 0");
  REQUIRE(fate("leaving=kill") == "status 7");  // the child does not pass it
}

TEST_CASE("the count says at which hit") {
  REQUIRE(fate("sealed:2=exit") == "status 0");
  REQUIRE(fate("sealed:3=exit") == "status 7");
}

TEST_CASE("an environment that can't be understood is not ignored") {
  for (const auto* plan : {"sealed", "sealed=", "sealed=explode", "nowhere=kill", "sealed:0=kill", "sealed:x=kill",
                           "sealed:1x=kill", "sealed:=kill", "=kill", "sealed:99999999999=kill"}) {
    CAPTURE(plan);
    REQUIRE(fate(plan) == "status 2");
  }
}

TEST_CASE("the log has each name once for each process, even if the process dies there") {
  char path[] = "/tmp/muster-failpoints-XXXXXX";
  const int file = mkstemp(path);
  REQUIRE(file >= 0);
  close(file);
  REQUIRE(fate("", path) == "status 7");
  REQUIRE(fate("joined=kill", path) == "signal 9");
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  std::remove(path);
  REQUIRE(text.str() == "sealed\njoined\nsealed\njoined\n");
}

TEST_CASE("every failpoint has a name of its own") {
  REQUIRE(std::set<std::string_view>(failpoint_names.begin(), failpoint_names.end()).size() == failpoint_names.size());
  REQUIRE(failpoint_names[static_cast<std::size_t>(Failpoint::contributed_signalled)] == "contributed_signalled");
  MUSTER_FAILPOINT(connected);  // compiles in every build
}

}  // namespace
}  // namespace muster::ipc
