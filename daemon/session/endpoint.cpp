#include "session/endpoint.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include <muster/ipc/place.hpp>

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

namespace {

constexpr int backlog = 4096;

/// Takes the lock; returns no descriptor if another daemon has it.
Result<ipc::Fd> take_lock(const std::string& path, Duration patience) {
  const std::string lock_path = path + ".lock";
  ipc::Fd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return ipc::system_error(Code::denied, "can't open the lock file " + lock_path, errno);
  const auto give_up = Clock::now() + patience;
  while (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ipc::system_error(Code::failed, "can't lock " + lock_path, errno);
    if (ipc::is_served(path) || Clock::now() > give_up) return ipc::Fd();
    // The daemon that holds the lock is starting or ending, and nothing reports when it is done.
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return lock;
}

/// Gives the socket file its mode from the first moment on. A later chmod() would follow whatever lies at the path by
/// then. Changing the umask is safe, as the daemon has no other thread yet.
bool bind_with(unsigned mode, const ipc::Fd& listener, const sockaddr_un& address) {
  constexpr unsigned all = 0777;
  const mode_t before = ::umask(all & ~mode);
  const bool bound = ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  const int error = errno;
  ::umask(before);
  errno = error;
  return bound;
}

}  // namespace

Result<std::optional<Endpoint>> Endpoint::open(std::string path, unsigned mode, Duration patience) {
  auto address = ipc::unix_address(path);
  if (!address) return address.error();
  if (auto made = ipc::make_place(path); !made) return made.error();
  auto lock = take_lock(path, patience);
  if (!lock) return lock.error();
  if (!*lock) return std::optional<Endpoint>();
  struct stat info {};
  if (::lstat(path.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode))
      return Error(Code::invalid, path + " exists and is not a socket",
                   "name a path where no file is: --socket, or MUSTER_SOCKET");
    ::unlink(path.c_str());
  }
  ipc::Fd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener) return ipc::system_error(Code::failed, "can't make a socket", errno);
  // From Linux 6.16 on nobody can send descriptors to this socket or to the sockets that it accepts. With older kernels
  // they are noticed, but not received.
  const int no = 0;
  ::setsockopt(listener.get(), SOL_SOCKET, SO_PASSRIGHTS, &no, sizeof no);
  if (!bind_with(mode, listener, *address))
    return ipc::system_error(Code::denied, "can't bind " + path, errno, "choose another place with --socket");
  if (::listen(listener.get(), backlog) != 0) return ipc::system_error(Code::failed, "can't listen on " + path, errno);
  return std::optional(Endpoint(std::move(path), std::move(*lock), std::move(listener)));
}

void Endpoint::close() {
  if (!listener_) return;
  ::unlink(path_.c_str());
  listener_.reset();
}

}  // namespace musterd
