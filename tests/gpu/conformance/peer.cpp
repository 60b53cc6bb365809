#include "peer.hpp"

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include <catch2/catch.hpp>

namespace conformance {

Peer::Peer(int device) {
  int sockets[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
  const auto program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "gpu_conformance_peer";
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, sockets[1], STDIN_FILENO);
  char* arguments[] = {const_cast<char*>(program.c_str()), nullptr};
  REQUIRE(::posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments, environ) == 0);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(sockets[1]);
  socket_ = sockets[0];
  if (device >= 0) REQUIRE(code(Op::init, static_cast<std::uint64_t>(device)) == 0);
}

Peer::~Peer() {
  if (pid_ <= 0) return;
  CHECK(code(Op::end) == 0);
  ::close(socket_);
  int status = 0;
  ::waitpid(pid_, &status, 0);
  CHECK(status == 0);
}

Reply Peer::ask(const Request& request, int fd) {
  tell(request, fd);
  return hear();
}

void Peer::tell(const Request& request, int fd) { REQUIRE(send_message(socket_, &request, sizeof(request), fd)); }

Reply Peer::hear() {
  Reply reply;
  REQUIRE(receive_message(socket_, &reply, sizeof(reply), nullptr));
  return reply;
}

bool Peer::answers(int milliseconds) const {
  pollfd entry{socket_, POLLIN, 0};
  return ::poll(&entry, 1, milliseconds) == 1;
}

void Peer::kill() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  ::close(socket_);
  pid_ = -1;
}

}  // namespace conformance
