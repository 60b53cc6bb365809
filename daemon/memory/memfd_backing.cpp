#include "memory/memfd_backing.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/fd.hpp>

// Linux 5.14 has these. Older headers don't know them, and older kernels refuse them.
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

namespace {

/// A descriptor for a mapping that can't be made writable later. Kernels before 6.7 count every shared mapping through
/// a writable descriptor as a writer, and then refuse F_SEAL_WRITE. Without /proc the writable descriptor has to do.
Result<ipc::Fd> read_only_descriptor(const ipc::Fd& fd) {
  const auto path = fmt::format("/proc/self/fd/{}", fd.get());
  // A client may have a lease on the file. Without O_NONBLOCK, open() would wait for the end of that lease.
  ipc::Fd reader(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!reader && errno == EWOULDBLOCK)
    return Error(Code::invalid, "the file of the segment is leased (F_SETLEASE)", "give that lease up first");
  return reader ? std::move(reader) : fd.duplicate();
}

class MemfdMemory final : public SegmentMemory {
 public:
  MemfdMemory(const SegmentSpec& spec, ipc::Fd fd, ipc::Mapping mapping)
      : bytes_(spec.bytes), fd_(std::move(fd)), mapping_(std::move(mapping)), id_(spec.id), hard_(spec.hard) {}
  /// Frees the pages piece by piece, as no other thread of this process can map anything while one call unmaps a lot.
  ~MemfdMemory() override {
    constexpr std::size_t stretch_bytes = 8 << 20;
    for (std::size_t at = 0; at < mapping_.bytes(); at += stretch_bytes)
      ::madvise(mapping_.data() + at, std::min(stretch_bytes, mapping_.bytes() - at), MADV_DONTNEED);
  }

  [[nodiscard]] int descriptor() const noexcept override { return fd_.get(); }
  [[nodiscard]] std::span<std::byte> host() const noexcept override { return {mapping_.data(), mapping_.bytes()}; }
  /// This takes no time: while the memory is mapped, closing the descriptor frees nothing.
  void close_descriptor() noexcept override { fd_.reset(); }

  [[nodiscard]] Result<void> seal() override {
    const auto reader = read_only_descriptor(fd_);
    if (!reader) return reader.error();
    const int last = hard_ ? 0 : F_SEAL_SEAL;
    if (auto sealed = ipc::add_seals(fd_, F_SEAL_SHRINK | F_SEAL_GROW | ipc::seal_future_write | last); !sealed)
      return sealed.error();
    if (auto same = check_size(); !same) return same.error();
    auto mapping = ipc::Mapping::map(*reader, bytes_, ipc::Access::read_only);
    if (!mapping) return mapping.error();
    mapping_ = std::move(*mapping);
    return {};
  }

  [[nodiscard]] Result<void> seal_hard() override {
    if (ipc::add_seals(fd_, F_SEAL_WRITE | F_SEAL_SEAL)) return {};
    return Error(Code::invalid, label(id_) + " still has a writable mapping", "unmap it in every process first");
  }

  /// A read-only mapping can't be populated for writing. Reading makes the pages of a memfd present just as well.
  [[nodiscard]] bool populate(std::uint64_t offset, std::uint64_t bytes) noexcept override {
    std::byte* begin = mapping_.data() + offset;
    return ::madvise(begin, bytes, MADV_POPULATE_WRITE) == 0 || ::madvise(begin, bytes, MADV_POPULATE_READ) == 0;
  }

 private:
  /// The writer could resize the file until it was sealed, and its size must be what is charged.
  [[nodiscard]] Result<void> check_size() const {
    struct stat status {};
    if (::fstat(fd_.get(), &status) != 0)
      return ipc::system_error(Code::failed, "can't read the size of " + label(id_), errno);
    if (static_cast<std::uint64_t>(status.st_size) == bytes_) return {};
    return Error(Code::invalid, fmt::format("{} was resized from {} to {} bytes", label(id_), bytes_, status.st_size));
  }

  std::uint64_t bytes_;
  ipc::Fd fd_;
  ipc::Mapping mapping_;
  SegmentId id_;
  bool hard_;
};

/// No other process has the memfd yet, so nothing here can wait for one.
Result<ipc::Mapping> map_and_seal_own(const ipc::Fd& fd, std::uint64_t bytes) {
  auto mapping = ipc::Mapping::map(fd, bytes, ipc::Access::read_write);
  if (!mapping) return mapping.error();
  if (auto sealed = ipc::add_seals(fd, F_SEAL_SHRINK | F_SEAL_GROW | ipc::seal_future_write | F_SEAL_SEAL); !sealed)
    return sealed.error();
  return mapping;
}

}  // namespace

SegmentBacking::Limits MemfdBacking::limits() const noexcept {
  return {.granularity_bytes = 4096, .bytes_max = std::uint64_t{1} << 46};
}

Result<SegmentMemoryPtr> MemfdBacking::create(const SegmentSpec& spec) {
  const bool own = spec.writer == SegmentSpec::Writer::daemon;
  auto fd = ipc::create_memfd(own ? "muster-result" : "muster-client", spec.bytes);
  if (!fd) return fd.error();
  ipc::Mapping mapping;
  if (own) {
    auto mapped = map_and_seal_own(*fd, spec.bytes);
    if (!mapped) return mapped.error();
    mapping = std::move(*mapped);
  }
  return SegmentMemoryPtr(std::make_shared<MemfdMemory>(spec, std::move(*fd), std::move(mapping)));
}

}  // namespace musterd
