#include "memory/memfd_backing.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include <muster/ipc/fd.hpp>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
// Linux 5.14; older headers don't know them, older kernels refuse them.
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

/// For a mapping that can't be made writable later. Kernels before 6.7 count a shared mapping through a writable
/// descriptor as a writer, however it is protected, and then refuse F_SEAL_WRITE. Without /proc that one has to do.
Result<ipc::Fd> read_only_descriptor(const ipc::Fd& fd) {
  const auto path = "/proc/self/fd/" + std::to_string(fd.get());
  // A client may have a lease on the file, and who opens it would wait for its end.
  ipc::Fd reader(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!reader && errno == EWOULDBLOCK)
    return Error(Code::invalid, "the file of the segment is leased (F_SETLEASE)", "give that lease up first");
  return reader ? std::move(reader) : fd.duplicate();
}

class MemfdMemory final : public SegmentMemory {
 public:
  MemfdMemory(const SegmentSpec& spec, ipc::Fd fd, ipc::Mapping mapping)
      : bytes_(spec.bytes), fd_(std::move(fd)), mapping_(std::move(mapping)), id_(spec.id), hard_(spec.hard) {}
  /// Page by page, as others of this process can't map anything while one call unmaps a lot.
  ~MemfdMemory() override {
    constexpr std::size_t stretch_bytes = 8 << 20;
    for (std::size_t at = 0; at < mapping_.bytes(); at += stretch_bytes)
      ::madvise(mapping_.data() + at, std::min(stretch_bytes, mapping_.bytes() - at), MADV_DONTNEED);
  }

  [[nodiscard]] int descriptor() const noexcept override { return fd_.get(); }
  [[nodiscard]] std::span<std::byte> host() const noexcept override { return {mapping_.data(), mapping_.bytes()}; }
  /// While it is mapped, to close it frees nothing and takes no time.
  void close_descriptor() noexcept override { fd_.reset(); }

  [[nodiscard]] Result<void> seal() override {
    const auto reader = read_only_descriptor(fd_);
    if (!reader) return reader.error();
    const int last = hard_ ? 0 : F_SEAL_SEAL;
    if (auto sealed = ipc::add_seals(fd_, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | last); !sealed)
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

  /// Read-only mappings refuse to be populated for writing; a read brings the pages of a memfd just as well.
  [[nodiscard]] bool populate(std::uint64_t offset, std::uint64_t bytes) noexcept override {
    std::byte* begin = mapping_.data() + offset;
    return ::madvise(begin, bytes, MADV_POPULATE_WRITE) == 0 || ::madvise(begin, bytes, MADV_POPULATE_READ) == 0;
  }

 private:
  /// Its writer could resize it until it was sealed; what it holds must be what it is charged for.
  [[nodiscard]] Result<void> check_size() const {
    struct stat status {};
    if (::fstat(fd_.get(), &status) != 0)
      return ipc::system_error(Code::failed, "can't read the size of " + label(id_), errno);
    if (static_cast<std::uint64_t>(status.st_size) == bytes_) return {};
    return Error(Code::invalid, label(id_) + " was resized from " + std::to_string(bytes_) + " to " +
                                    std::to_string(status.st_size) + " bytes");
  }

  std::uint64_t bytes_;
  ipc::Fd fd_;
  ipc::Mapping mapping_;
  SegmentId id_;
  bool hard_;
};

/// Nobody else has it yet, so nothing of this waits for anybody.
Result<ipc::Mapping> map_and_seal_own(const ipc::Fd& fd, std::uint64_t bytes) {
  auto mapping = ipc::Mapping::map(fd, bytes, ipc::Access::read_write);
  if (!mapping) return mapping.error();
  if (auto sealed = ipc::add_seals(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL); !sealed)
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
