// RAII for file descriptors and memory mappings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include <muster/result.hpp>

namespace muster::ipc {

/// Owns one file descriptor; closes it in the destructor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);
  explicit operator bool() const { return fd_ >= 0; }
  [[nodiscard]] Result<Fd> duplicate() const;

 private:
  int fd_ = -1;
};

enum class Access { read_only, read_write, copy_on_write };

/// Owns one mmap of a file descriptor's first `bytes` bytes; unmaps it in the destructor.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { unmap(); }

  /// Maps at an address aligned to 2 MiB when `bytes` is at least that, so that huge pages can be used. QuotaExceeded
  /// if this process may have no more mappings, or no more address space.
  [[nodiscard]] static Result<Mapping> map(const Fd& fd, std::size_t bytes, Access access, std::size_t offset = 0);

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  void unmap();
  /// Makes every page present and writable now, so that none faults later. Does nothing if the kernel can't.
  void populate() const;
  /// Gives up the address range without unmapping it.
  void forget() { data_ = nullptr, bytes_ = 0; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// The limit of a system that does not set it.
inline constexpr std::uint64_t usual_mappings_max = 65'530;
/// How many memory mappings one process may have: vm.max_map_count, or the usual number if that can't be read.
[[nodiscard]] std::uint64_t mappings_max();

/// A memfd of `bytes` zero bytes that allows sealing.
[[nodiscard]] Result<Fd> create_memfd(const char* name, std::size_t bytes);
/// F_SEAL_FUTURE_WRITE, which some systems' headers don't have: no writable mapping is made any more.
inline constexpr int seal_future_write = 0x0010;
/// Adds file seals (F_SEAL_*).
[[nodiscard]] Result<void> add_seals(const Fd& fd, int seals);
[[nodiscard]] Result<Fd> create_eventfd();
/// Adds one to an eventfd. Ignores a full or broken one, as the reader is awake or gone then.
void signal(const Fd& eventfd);
/// Reads an eventfd down to zero. Never waits, whatever the other process that has the eventfd does to its flags.
void drain(const Fd& eventfd);

/// One end rings, the other is readable until it is silenced. Neither process can make the other wait, whatever it does
/// to its own end. Nothing can be sent to the end that rings.
struct Bell {
  Fd teller;
  Fd listener;
};
[[nodiscard]] Result<Bell> create_bell();
/// Does nothing if the listener is readable already, or gone.
void ring(const Fd& teller);
void silence(const Fd& listener);

/// An Error from errno: `what: strerror (errno N)`. QuotaExceeded, with the limit and how to raise it, if a limit of
/// this process is the reason.
[[nodiscard]] Error system_error(Code code, std::string what, int error_number, std::string hint = {});

}  // namespace muster::ipc
