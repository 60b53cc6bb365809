// The system calls behind Fd and Mapping. Every descriptor is made close-on-exec, so that programs that a client starts
// inherit none.
#include <muster/ipc/fd.hpp>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdint>
#include <limits>
#include <string>
#include <system_error>

#include <fmt/format.h>

#include <muster/ipc/text_file.hpp>

namespace muster::ipc {

namespace {

constexpr std::size_t huge_page_bytes = 2 << 20;

std::size_t rounded_up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

/// Address space of `bytes` at a multiple of 2 MiB, held by an inaccessible mapping; null if there is none.
std::byte* reserve_aligned(std::size_t bytes) {
  const std::size_t reserved = bytes + huge_page_bytes;
  void* found = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) return nullptr;
  auto* begin = static_cast<std::byte*>(found);
  const std::size_t before =
      (huge_page_bytes - reinterpret_cast<std::uintptr_t>(begin) % huge_page_bytes) % huge_page_bytes;
  const std::size_t after = reserved - before - bytes;
  if (before != 0) munmap(begin, before);
  if (after != 0) munmap(begin + before + bytes, after);
  return begin + before;
}

/// Refuses a mapping past the end of a file, as it would lead to a SIGBUS later.
Result<void> check_size(const Fd& fd, std::size_t bytes, std::size_t offset) {
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) return system_error(Code::failed, "can't map: fstat", errno);
  const auto end = static_cast<std::uint64_t>(status.st_size);
  if (S_ISREG(status.st_mode) && (offset > end || bytes > end - offset))
    return Error(Code::invalid,
                 fmt::format("can't map past the end: {} bytes at {} of a file of {}", bytes, offset, end));
  return {};
}

/// Whether this process has as many mappings as it may. The kernel then refuses even a page that takes no memory.
bool no_mapping_is_left() {
  void* page = mmap(nullptr, page_bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (page != MAP_FAILED) munmap(page, page_bytes());
  return page == MAP_FAILED;
}

/// The process's limit of a resource, as text.
std::string limit_text(decltype(RLIMIT_AS) resource) {
  rlimit limit{};
  getrlimit(resource, &limit);
  return limit.rlim_cur == RLIM_INFINITY ? "unlimited" : std::to_string(limit.rlim_cur);
}

/// If the address space is limited, that may be the reason, too; system_error() then names both.
Error mapping_error(std::size_t bytes, int error_number) {
  const std::string what = fmt::format("can't map {} bytes", bytes);
  rlimit address_space{};
  getrlimit(RLIMIT_AS, &address_space);
  if (error_number != ENOMEM || address_space.rlim_cur != RLIM_INFINITY || !no_mapping_is_left())
    return system_error(Code::failed, what, error_number);
  const std::uint64_t limit = mappings_max();
  return {Code::quota_exceeded,
          fmt::format("{}: process {} has as many memory mappings as the system allows, vm.max_map_count is {}", what,
                      getpid(), limit),
          fmt::format("raise it: sysctl -w vm.max_map_count={}", 2 * limit)};
}

}  // namespace

Error system_error(Code code, std::string what, int error_number, std::string hint) {
  std::string message =
      fmt::format("{}: {} (errno {})", what, std::generic_category().message(error_number), error_number);
  switch (error_number) {
    case EMFILE:
      return {Code::quota_exceeded,
              fmt::format("{}; the limit of open files is {}", message, limit_text(RLIMIT_NOFILE)),
              "raise it: ulimit -n 4096"};
    case ENFILE: return {Code::quota_exceeded, message + "; all processes together have too many", "see fs.file-max"};
    case ENOMEM:
      if (code != Code::failed) break;
      return {Code::quota_exceeded,
              fmt::format("{}; the limit of address space is {} bytes", message, limit_text(RLIMIT_AS)),
              "raise it: ulimit -v unlimited; or vm.max_map_count, or the memory of the cgroup"};
    case EFBIG:
      return {Code::quota_exceeded,
              fmt::format("{}; the limit of a file's bytes is {}", message, limit_text(RLIMIT_FSIZE)),
              "raise it: ulimit -f unlimited"};
    default: break;
  }
  return {code, std::move(message), std::move(hint)};
}

void Fd::reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

Result<Fd> Fd::duplicate() const {
  const int copy = fcntl(fd_, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return system_error(Code::failed, fmt::format("can't duplicate descriptor {}", fd_), errno);
  return Fd(copy);
}

std::uint64_t mappings_max() {
  const auto text = read_text_file("/proc/sys/vm/max_map_count");
  std::uint64_t number = 0;
  if (!text || std::from_chars(text->data(), text->data() + text->size(), number).ec != std::errc())
    return usual_mappings_max;
  return number;
}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    unmap();
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

Result<Mapping> Mapping::map(const Fd& fd, std::size_t bytes, Access access, std::size_t offset) {
  if (bytes == 0 || bytes > std::numeric_limits<std::size_t>::max() / 2 || offset % page_bytes() != 0)
    return Error(Code::invalid, fmt::format("can't map {} bytes at {}", bytes, offset));
  if (auto fits = check_size(fd, bytes, offset); !fits) return fits.error();

  const int protection = access == Access::read_only ? PROT_READ : PROT_READ | PROT_WRITE;
  int flags = access == Access::copy_on_write ? MAP_PRIVATE : MAP_SHARED;
  std::byte* wanted = nullptr;
  if (bytes >= huge_page_bytes) {
    wanted = reserve_aligned(rounded_up(bytes, page_bytes()));
    if (wanted != nullptr) flags |= MAP_FIXED;
  }
  void* found = mmap(wanted, bytes, protection, flags, fd.get(), static_cast<off_t>(offset));
  if (found == MAP_FAILED) {
    const int why = errno;
    if (wanted != nullptr) munmap(wanted, rounded_up(bytes, page_bytes()));
    return mapping_error(bytes, why);
  }
  // This is only advice. A kernel without huge pages for shared memory refuses it, and small pages work, too.
  if (bytes >= huge_page_bytes && access != Access::copy_on_write) madvise(found, bytes, MADV_HUGEPAGE);
  Mapping mapping;
  mapping.data_ = static_cast<std::byte*>(found);
  mapping.bytes_ = bytes;
  return mapping;
}

void Mapping::populate() const {
#ifdef MADV_POPULATE_WRITE
  if (data_) madvise(data_, bytes_, MADV_POPULATE_WRITE);
#endif
}

void Mapping::unmap() {
  if (data_ != nullptr) munmap(data_, bytes_);
  forget();
}

Result<Fd> create_memfd(const char* name, std::size_t bytes) {
  if (bytes > static_cast<std::size_t>(std::numeric_limits<off_t>::max()))
    return Error(Code::invalid, fmt::format("can't make a memfd: {} bytes", bytes));
  Fd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return system_error(Code::failed, "can't make a memfd", errno);
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0)
    return system_error(Code::failed, fmt::format("can't size a memfd to {} bytes", bytes), errno);
  return fd;
}

Result<void> add_seals(const Fd& fd, int seals) {
  if (fcntl(fd.get(), F_ADD_SEALS, seals) != 0)
    return system_error(errno == EBUSY ? Code::invalid : Code::failed, fmt::format("can't add file seals {}", seals),
                        errno, errno == EBUSY ? "unmap every writable mapping first" : "");
  return {};
}

Result<Fd> create_eventfd() {
  Fd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return system_error(Code::failed, "can't make an eventfd", errno);
  return fd;
}

void signal(const Fd& eventfd) {
  const std::uint64_t one = 1;
  while (write(eventfd.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
}

void drain(const Fd& eventfd) {
  std::uint64_t count = 0;
  iovec part{&count, sizeof count};
  constexpr off_t here = -1;
  // RWF_NOWAIT, as O_NONBLOCK belongs to the open file, and the other process may clear it.
  while (preadv2(eventfd.get(), &part, 1, here, RWF_NOWAIT) < 0 && errno == EINTR) {
  }
}

Result<Bell> create_bell() {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
    return system_error(Code::failed, "can't make a socket pair", errno);
  Bell bell{Fd(pair[0]), Fd(pair[1])};
  // Otherwise the listener's process could leave descriptors of its own in the socket.
  shutdown(bell.teller.get(), SHUT_RD);
  return bell;
}

void ring(const Fd& teller) {
  const char byte = 0;
  while (send(teller.get(), &byte, sizeof byte, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
}

void silence(const Fd& listener) {
  char bytes[64];
  for (ssize_t got = 1; got > 0 || (got < 0 && errno == EINTR);)
    got = recv(listener.get(), bytes, sizeof bytes, MSG_DONTWAIT);
}

}  // namespace muster::ipc
