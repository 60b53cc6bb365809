#include <muster/ipc/place.hpp>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>

namespace muster::ipc {

namespace {

constexpr const char* elsewhere = "name another place: MUSTER_SOCKET, or --socket";

std::string absolute(const std::string& path) {
  std::error_code error;
  const auto found = std::filesystem::absolute(path, error);
  return error ? path : found.lexically_normal().string();
}

std::string own_socket_path() {
  if (const char* folder = std::getenv("XDG_RUNTIME_DIR"); folder != nullptr && *folder != '\0')
    return absolute(std::string(folder) + "/muster/musterd.sock");
  if (geteuid() == 0) return "/run/muster/musterd.sock";
  return fmt::format("/tmp/muster-{}/musterd.sock", geteuid());
}

/// Whether the place must be this user's own. It need not be if the user has named the place, and so knows who listens
/// there. Nor need root's default place, which only root can make: root may have made it for a daemon of another user.
bool must_be_own(const std::string& socket_path) {
  const char* named = std::getenv("MUSTER_SOCKET");
  return geteuid() != 0 && socket_path == own_socket_path() && (named == nullptr || socket_path != absolute(named));
}

bool is_trusted(uid_t user) { return user == geteuid() || user == 0; }

}  // namespace

std::string default_socket_path() {
  if (const char* path = std::getenv("MUSTER_SOCKET"); path != nullptr && *path != '\0') return absolute(path);
  return own_socket_path();
}

std::string socket_path(const std::string& given) { return given.empty() ? default_socket_path() : absolute(given); }

Result<sockaddr_un> unix_address(const std::string& socket_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  constexpr auto path_bytes_max = sizeof address.sun_path - 1;
  if (socket_path.empty()) return Error(Code::invalid, "the socket's path is empty", elsewhere);
  if (socket_path.size() > path_bytes_max)
    return Error(
        Code::invalid,
        fmt::format("the socket's path has {}: {}", over_text(socket_path.size(), path_bytes_max), socket_path),
        elsewhere);
  std::memcpy(address.sun_path, socket_path.c_str(), socket_path.size() + 1);
  return address;
}

Result<void> make_place(const std::string& socket_path) {
  const auto directory = std::filesystem::path(socket_path).parent_path();
  if (directory.empty()) return {};
  std::error_code ignored;
  std::filesystem::create_directories(directory.parent_path(), ignored);
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
    return system_error(Code::denied, "can't make the directory " + directory.string(), errno, elsewhere);
  if (!must_be_own(socket_path)) return {};
  struct stat info {};
  if (::lstat(directory.c_str(), &info) != 0)
    return system_error(Code::denied, "can't look at " + directory.string(), errno, elsewhere);
  if (!S_ISDIR(info.st_mode)) return Error(Code::denied, directory.string() + " is not a directory", elsewhere);
  if (!is_trusted(info.st_uid))
    return Error(Code::denied, fmt::format("{} belongs to user {}", directory.string(), info.st_uid), elsewhere);
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0)
    return Error(Code::denied, directory.string() + " can be written by other users",
                 "chmod go-w " + directory.string());
  return {};
}

Result<void> check_listener(const Fd& connected, const std::string& socket_path) {
  if (!must_be_own(socket_path)) return {};
  ucred peer{};
  socklen_t bytes = sizeof peer;
  if (::getsockopt(connected.get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0)
    return system_error(Code::denied, "can't see who listens at " + socket_path, errno);
  if (is_trusted(peer.uid)) return {};
  return Error(Code::denied,
               fmt::format("user {} listens at {}, which is for daemons of user {}", peer.uid, socket_path, geteuid()),
               "if that daemon is meant, say so: export MUSTER_SOCKET=" + socket_path);
}

Error not_a_musterd(const std::string& socket_path, const std::string& why) {
  return {Code::invalid, fmt::format("what listens at {} is not a musterd: {}", socket_path, why),
          "give the socket of a daemon of this version, by MUSTER_SOCKET for instance"};
}

bool is_served(const std::string& socket_path) {
  const auto address = unix_address(socket_path);
  if (!address) return false;
  const Fd probe(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) == 0 || errno == EAGAIN;
}

}  // namespace muster::ipc
