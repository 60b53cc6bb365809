// Whose daemon listens at a path: tested with processes of several users if the test may make them.
#include <catch2/catch.hpp>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>

#include <muster/ipc/place.hpp>

using namespace muster::ipc;
using muster::Code;

namespace {

constexpr uid_t stranger = 40'001;
constexpr uid_t victim = 40'002;

/// A folder for all users. $XDG_RUNTIME_DIR names it, so everybody's own socket is muster/musterd.sock in it.
class SharedFolder {
 public:
  SharedFolder() {
    char name[] = "/tmp/muster-place-XXXXXX";
    path_ = ::mkdtemp(name);
    ::chmod(path_.c_str(), 0777);
  }
  SharedFolder(const SharedFolder&) = delete;
  SharedFolder& operator=(const SharedFolder&) = delete;
  ~SharedFolder() { std::filesystem::remove_all(path_); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string place() const { return path_ + "/muster"; }
  [[nodiscard]] std::string socket() const { return place() + "/musterd.sock"; }

 private:
  std::string path_;
};

/// Runs `body` in a process of that user, with the folder as its runtime folder. Returns what `body` returns.
int as_user(uid_t user, const SharedFolder& folder, const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    ::umask(0);
    ::unsetenv("MUSTER_SOCKET");
    ::setenv("XDG_RUNTIME_DIR", folder.path().c_str(), 1);
    if (::geteuid() == 0 && ::setuid(user) != 0) ::_exit(99);
    ::_exit(body());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Fd listen_at(const std::string& path) {
  const auto address = unix_address(path).value();
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return {};
  ::chmod(path.c_str(), 0666);
  return ::listen(socket.get(), 16) == 0 ? std::move(socket) : Fd();
}

Fd connect_to(const std::string& path) {
  const auto address = unix_address(path).value();
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ? std::move(socket)
                                                                                                   : Fd();
}

bool is_denied(const muster::Result<void>& result) { return !result && result.error().code() == Code::denied; }

}  // namespace

TEST_CASE("the socket's path: the environment first, the user's runtime folder next") {
  const auto old = [](const char* name) { return std::string(std::getenv(name) ? std::getenv(name) : ""); };
  const auto path = old("MUSTER_SOCKET"), folder = old("XDG_RUNTIME_DIR");
  setenv("MUSTER_SOCKET", "/some/where.sock", 1);
  REQUIRE(default_socket_path() == "/some/where.sock");
  REQUIRE(socket_path("") == "/some/where.sock");
  REQUIRE(socket_path("/else/where.sock") == "/else/where.sock");
  // The daemon and the process that waits for it have other working directories.
  const auto here = std::filesystem::current_path().string();
  REQUIRE(socket_path("./a/../where.sock") == here + "/where.sock");
  setenv("MUSTER_SOCKET", "where.sock", 1);
  REQUIRE(default_socket_path() == here + "/where.sock");
  setenv("MUSTER_SOCKET", "", 1);
  setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
  REQUIRE(default_socket_path() == "/run/user/7/muster/musterd.sock");
  unsetenv("XDG_RUNTIME_DIR");
  const auto own =
      geteuid() == 0 ? "/run/muster/musterd.sock" : "/tmp/muster-" + std::to_string(geteuid()) + "/musterd.sock";
  REQUIRE(default_socket_path() == own);
  unsetenv("MUSTER_SOCKET");
  if (!path.empty()) setenv("MUSTER_SOCKET", path.c_str(), 1);
  if (!folder.empty()) setenv("XDG_RUNTIME_DIR", folder.c_str(), 1);
}

TEST_CASE("a user's own folder is made for that user alone") {
  const SharedFolder folder;
  CHECK(as_user(victim, folder, [&] {
          struct stat info {};
          const bool made = bool(make_place(folder.socket())) && ::stat(folder.place().c_str(), &info) == 0;
          return made && (info.st_mode & 0777) == 0700 && make_place(folder.socket()) ? 0 : 1;
        }) == 0);
}

TEST_CASE("a folder that others may write to is denied until they may not") {
  const SharedFolder folder;
  CHECK(as_user(victim, folder, [&] {
          ::mkdir(folder.place().c_str(), 0777);
          if (!is_denied(make_place(folder.socket()))) return 1;
          ::chmod(folder.place().c_str(), 0755);
          return make_place(folder.socket()) ? 0 : 2;
        }) == 0);
}

TEST_CASE("a link in the place of the folder is denied") {
  const SharedFolder folder;
  CHECK(as_user(victim, folder, [&] {
          if (::symlink("/tmp", folder.place().c_str()) != 0) return 1;
          return is_denied(make_place(folder.socket())) ? 0 : 2;
        }) == 0);
}

TEST_CASE("no client takes another user's daemon for its own, unless told to") {
  if (::geteuid() != 0) {
    WARN("not run: only root can have processes of two users");
    return;
  }
  const SharedFolder folder;
  const auto listens = [&](uid_t user, const std::function<int()>& meanwhile) {
    return as_user(user, folder, [&] {
      ::mkdir(folder.place().c_str(), 0755);
      const Fd listener = listen_at(folder.socket());
      if (!listener) return 90;
      ::unsetenv("XDG_RUNTIME_DIR");
      return meanwhile();
    });
  };
  REQUIRE(listens(stranger, [] { return 0; }) == 0);
  CHECK(as_user(victim, folder, [&] { return is_denied(make_place(folder.socket())) ? 0 : 1; }) == 0);

  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
  const Fd stop(ends[0]);
  Fd theirs(ends[1]);
  std::filesystem::remove_all(folder.place());
  const pid_t server = ::fork();
  if (server == 0) {
    ::close(ends[0]);
    ::_exit(listens(stranger, [&] {
      char byte = 0;
      static_cast<void>(::write(ends[1], "x", 1));
      return ::read(ends[1], &byte, 1) == 0 ? 0 : 91;
    }));
  }
  theirs.reset();
  char byte = 0;
  REQUIRE(::read(stop.get(), &byte, 1) == 1);
  CHECK(as_user(victim, folder, [&] {
          const Fd connected = connect_to(folder.socket());
          if (!connected || !is_served(folder.socket())) return 1;
          if (!is_denied(check_listener(connected, folder.socket()))) return 2;
          ::setenv("MUSTER_SOCKET", folder.socket().c_str(), 1);
          return check_listener(connected, folder.socket()) ? 0 : 3;
        }) == 0);
  CHECK(as_user(stranger, folder,
                [&] { return check_listener(connect_to(folder.socket()), folder.socket()) ? 0 : 1; }) == 0);
  ::shutdown(stop.get(), SHUT_RDWR);
  int status = 0;
  ::waitpid(server, &status, 0);
  CHECK(status == 0);
}
