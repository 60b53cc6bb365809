// Starts a daemon if there is none: one for all processes, in whatever order they come and go.
#include <catch2/catch.hpp>

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>
#include <sstream>
#include <thread>

#include "core/connection.hpp"
#include "../daemon.hpp"
#include "core/start_daemon.hpp"

namespace {

using muster::Client;
using muster::Code;
using muster::ConnectOptions;
using namespace muster::test;
using namespace std::chrono_literals;

ConnectOptions options_for(const TempFolder& folder) {
  ConnectOptions options;
  options.socket = folder.socket();
  options.daemon_path = MUSTERD_PATH;
  options.memory = "64MiB";
  return options;
}

/// Finds the daemons that serve this socket in the kernel's list of processes.
std::set<pid_t> daemons_of(const TempFolder& folder) {
  std::set<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "cmdline");
    std::ostringstream text;
    text << file.rdbuf();  // gives nothing, without an exception, if the process ends meanwhile
    const std::string line = text.str();
    if (line.starts_with(MUSTERD_PATH) && line.find(folder.socket()) != std::string::npos)
      found.insert(std::stoi(name));
  }
  return found;
}

/// Ends everything that the test has started, and waits for it.
struct Cleaner {
  const TempFolder& folder;
  ~Cleaner() {
    for (auto alive = daemons_of(folder); !alive.empty(); alive = daemons_of(folder))
      for (const pid_t pid : alive) ::kill(pid, SIGKILL);
  }
};

TEST_CASE("a client that finds no daemon and may not start one gets DaemonUnavailable") {
  const TempFolder folder;
  auto options = options_for(folder);
  options.start_daemon = false;
  CHECK(Client::connect(options).error().code() == Code::daemon_unavailable);
}

TEST_CASE("many processes that come at once get one daemon") {
  const TempFolder folder;
  const Cleaner cleaner{folder};
  std::vector<pid_t> children;
  for (int i = 0; i < 20; ++i)
    children.push_back(in_child([&] {
      auto client = Client::connect(options_for(folder)).value();
      return floats(filled(client, 10, 1))[9] == 1;
    }));
  for (const pid_t child : children) CHECK(succeeded(child));
  CHECK(daemons_of(folder).size() == 1);
}

/// Makes this process the leader of a session with a terminal. When it ends, the kernel signals the session.
void take_a_terminal() {
  REQUIRE(::setsid() > 0);
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY);
  REQUIRE(::grantpt(master) == 0);
  REQUIRE(::unlockpt(master) == 0);
  REQUIRE(::open(::ptsname(master), O_RDWR) >= 0);
}

TEST_CASE("the daemon survives its starter and the starter's terminal, and keeps none of its descriptors") {
  const TempFolder folder;
  const Cleaner cleaner{folder};
  const pid_t starter = in_child([&] {
    take_a_terminal();
    Client client = Client::connect(options_for(folder)).value();
    ::raise(SIGKILL);
    return false;
  });
  CHECK_FALSE(succeeded(starter));
  const auto daemons = daemons_of(folder);
  REQUIRE(daemons.size() == 1);
  const pid_t daemon = *daemons.begin();
  // Ctrl-C signals a process group; the end of a session sends SIGHUP.
  CHECK(::getpgid(daemon) != starter);
  CHECK(::getsid(daemon) == starter);
  REQUIRE(::kill(daemon, SIGHUP) == 0);
  CHECK(std::filesystem::read_symlink("/proc/" + std::to_string(daemon) + "/fd/0") == "/dev/null");
  CHECK(std::filesystem::read_symlink("/proc/" + std::to_string(daemon) + "/fd/2") ==
        std::filesystem::canonical(folder.path()) / "musterd.log");
  CHECK(Client::connect(options_for(folder)));
  CHECK(daemons_of(folder) == daemons);
}

TEST_CASE("a daemon with another budget is Invalid, and both are named") {
  const TempFolder folder;
  const Cleaner cleaner{folder};
  const auto client = Client::connect(options_for(folder)).value();
  CHECK(client.memory_bytes() == 64 << 20);
  auto other = options_for(folder);
  other.memory = "96MiB";
  const auto error = Client::connect(other).error();
  CHECK(error.code() == Code::invalid);
  CHECK_THAT(error.message(), Catch::Contains("96MiB"));
  CHECK_THAT(error.message(), Catch::EndsWith("runs with 64 MiB"));
  other.memory = "many";
  CHECK(Client::connect(other).error().code() == Code::invalid);
}

TEST_CASE("a program that is not a daemon gives an error that names its log") {
  const TempFolder folder;
  auto options = options_for(folder);
  options.daemon_path = "/bin/false";
  const auto error = Client::connect(options).error();
  CHECK(error.code() == Code::daemon_unavailable);
  CHECK_THAT(error.hint(), Catch::Contains("musterd.log"));
  options.daemon_path = folder.path() + "/nothing-here";
  CHECK(Client::connect(options).error().code() == Code::daemon_unavailable);
}

TEST_CASE("a client that comes while a daemon is ending gets the next") {
  const TempFolder folder;
  const Cleaner cleaner{folder};
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr int rounds = 50;  // fewer, as sanitizers make starting daemons slow
#else
  constexpr int rounds = 300;
#endif
  for (int round = 0; round < rounds; ++round) {
    const pid_t child = in_child([&] {
      const auto client = Client::connect(options_for(folder));
      if (!client) std::cerr << client.error().describe() << '\n';
      return client.ok();
    });
    REQUIRE(succeeded(child));
    for (const pid_t pid : daemons_of(folder)) ::kill(pid, SIGTERM);
  }
}

TEST_CASE("two threads of a process share one connection") {
  const Daemon daemon;
  std::vector<std::shared_ptr<muster::detail::Connection>> connections(4);
  std::vector<std::thread> threads;
  for (auto& connection : connections)
    threads.emplace_back([&connection, &daemon] { connection = daemon.connect().connection(); });
  for (auto& thread : threads) thread.join();
  for (const auto& connection : connections) CHECK(connection == connections.front());
}

}  // namespace
