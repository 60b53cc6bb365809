// Tries what Muster needs of the kernel. Version numbers don't tell: features are backported, and sandboxes forbid
// some.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include <muster/ipc/fd.hpp>

#include "check.hpp"

namespace muster::cli {

namespace {

constexpr std::size_t probe_bytes = 64 << 10;

Check version() {
  utsname names{};
  ::uname(&names);
  int major = 0;
  int minor = 0;
  std::sscanf(names.release, "%d.%d", &major, &minor);
  const bool recent = major > 5 || (major == 5 && minor >= 10);
  const std::string found = fmt::format("{} {} {}", names.sysname, names.release, names.machine);
  if (recent) return {"kernel", Health::ok, found, {}};
  return {"kernel", Health::warn, found,
          "older than 5.10, with which nobody has tried Muster; the checks below decide"};
}

Check failed(std::string name, const std::string& what, std::string mend) {
  return {std::move(name), Health::fail, fmt::format("{}: {}", what, std::strerror(errno)), std::move(mend)};
}

/// A sealed segment: its one writer can go on writing, and no other process can ever begin, not even by reopening it.
Check sealing() {
  const std::string mend = "Linux 5.1 or newer is needed; in a container, allow memfd_create and fcntl F_ADD_SEALS";
  auto memory = ipc::create_memfd("muster-doctor", probe_bytes);
  if (!memory) return failed("memfd sealing", "memfd_create", mend);
  auto writer = ipc::Mapping::map(*memory, probe_bytes, ipc::Access::read_write);
  if (!writer) return failed("memfd sealing", "mmap", mend);
  constexpr int future_write = 0x10;
  if (::fcntl(memory->get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | future_write | F_SEAL_SEAL) != 0)
    return failed("memfd sealing", "F_SEAL_FUTURE_WRITE", mend);
  writer->data()[0] = std::byte{1};
  const std::string path = fmt::format("/proc/self/fd/{}", memory->get());
  const ipc::Fd reopened(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  void* second = reopened ? ::mmap(nullptr, probe_bytes, PROT_WRITE, MAP_SHARED, reopened.get(), 0) : MAP_FAILED;
  if (second == MAP_FAILED) return {"memfd sealing", Health::ok, "one writer, sealed against all others", {}};
  ::munmap(second, probe_bytes);
  return {"memfd sealing", Health::fail, "a sealed segment could be mapped for writing again", mend};
}

Check pidfd() {
  const ipc::Fd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (self) return {"pidfd", Health::ok, "the death of clients is seen at once", {}};
  return failed("pidfd", "pidfd_open", "Linux 5.3 or newer is needed; in a container, allow pidfd_open");
}

/// Sends a packet with a descriptor in it, as client and daemon do.
Check fd_passing() {
  const std::string mend = "Unix sockets with SOCK_SEQPACKET are needed; in a container, allow them";
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0)
    return failed("descriptor passing", "socketpair", mend);
  const ipc::Fd from(ends[0]);
  const ipc::Fd to(ends[1]);
  char byte = 1;
  iovec part{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &ends[0], sizeof(int));
  if (::sendmsg(from.get(), &message, 0) != 1) return failed("descriptor passing", "sendmsg", mend);
  if (::recvmsg(to.get(), &message, MSG_CMSG_CLOEXEC) != 1) return failed("descriptor passing", "recvmsg", mend);
  header = CMSG_FIRSTHDR(&message);
  if (header == nullptr) return {"descriptor passing", Health::fail, "the descriptor did not arrive", mend};
  int passed = -1;
  std::memcpy(&passed, CMSG_DATA(header), sizeof passed);
  const ipc::Fd received(passed);
  return {"descriptor passing", Health::ok, "memory is handed over by Unix sockets", {}};
}

Check proc() {
  if (::access("/proc/self/maps", R_OK) == 0) return {"/proc", Health::ok, "mounted", {}};
  return {"/proc", Health::warn, "not mounted: memory and limits can't be read", "mount -t proc proc /proc"};
}

}  // namespace

std::vector<Check> check_kernel() { return {version(), sealing(), pidfd(), fd_passing(), proc()}; }

}  // namespace muster::cli
