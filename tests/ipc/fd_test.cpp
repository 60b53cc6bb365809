// Descriptors and mappings own what they hold, and mappings never reach past their file.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>
#include <muster/ipc/fd.hpp>

namespace muster::ipc {
namespace {

constexpr std::size_t mib = 1 << 20;

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }
bool closes_on_exec(const Fd& fd) { return (fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0; }
bool is_mapped(const void* address) {
  unsigned char resident = 0;
  return mincore(const_cast<void*>(address), 4096, &resident) == 0;
}

TEST_CASE("an Fd closes what it owns, once") {
  auto fd = create_eventfd().value();
  const int number = fd.get();
  {
    Fd moved = std::move(fd);
    REQUIRE(moved.get() == number);
    REQUIRE(is_open(number));
  }
  REQUIRE_FALSE(is_open(number));
}

TEST_CASE("every descriptor and every duplicate is close-on-exec") {
  const auto memfd = create_memfd("test", 4096).value();
  REQUIRE(closes_on_exec(memfd));
  REQUIRE(closes_on_exec(memfd.duplicate().value()));
  REQUIRE(closes_on_exec(create_eventfd().value()));
  REQUIRE(Fd{}.duplicate().error().message().find("errno 9") != std::string::npos);
}

TEST_CASE("mappings of a memfd share its bytes, a copy-on-write one keeps its own bytes") {
  const auto bytes = GENERATE(std::size_t{4096}, std::size_t{2 * mib}, std::size_t{5 * mib + 4096});
  const auto fd = create_memfd("test", bytes).value();
  const auto writer = Mapping::map(fd, bytes, Access::read_write).value();
  const auto reader = Mapping::map(fd, bytes, Access::read_only).value();
  const auto own = Mapping::map(fd, bytes, Access::copy_on_write).value();
  writer.data()[bytes - 1] = std::byte{42};
  REQUIRE(reader.data()[bytes - 1] == std::byte{42});
  own.data()[bytes - 1] = std::byte{7};
  REQUIRE(reader.data()[bytes - 1] == std::byte{42});
  if (bytes >= 2 * mib) REQUIRE(reinterpret_cast<std::uintptr_t>(writer.data()) % (2 * mib) == 0);
}

TEST_CASE("a mapping of a part begins at its offset") {
  const auto fd = create_memfd("test", 4 * mib).value();
  const auto whole = Mapping::map(fd, 4 * mib, Access::read_write).value();
  const auto part = Mapping::map(fd, 2 * mib, Access::read_only, 2 * mib).value();
  whole.data()[2 * mib] = std::byte{9};
  REQUIRE(part.data()[0] == std::byte{9});
}

TEST_CASE("a mapping ends with its owner, and only then") {
  const auto fd = create_memfd("test", 3 * mib).value();
  auto mapping = Mapping::map(fd, 3 * mib, Access::read_write).value();
  auto* data = mapping.data();
  Mapping moved;
  moved = std::move(mapping);
  REQUIRE_FALSE(mapping);
  REQUIRE(is_mapped(data));
  moved.unmap();
  REQUIRE_FALSE(is_mapped(data));
  REQUIRE_FALSE(is_mapped(data + 3 * mib - 4096));
}

TEST_CASE("a mapping that would end in a SIGBUS, or is empty, is refused") {
  const auto fd = create_memfd("test", 4096).value();
  REQUIRE(Mapping::map(fd, 4097, Access::read_only).error().code() == Code::invalid);
  REQUIRE(Mapping::map(fd, 4096, Access::read_only, 4096).error().code() == Code::invalid);
  REQUIRE(Mapping::map(fd, 4096, Access::read_only, SIZE_MAX - 4095).error().code() == Code::invalid);
  REQUIRE(Mapping::map(fd, 0, Access::read_only).error().code() == Code::invalid);
  REQUIRE(Mapping::map(fd, 4096, Access::read_only, 1).error().code() == Code::invalid);
  REQUIRE(Mapping::map(fd, SIZE_MAX, Access::read_only).error().code() == Code::invalid);
  REQUIRE_FALSE(Mapping::map(Fd{}, 4096, Access::read_only));
}

/// Takes all mappings that this process may still have, unless that is millions: cuts one mapping into pieces of a
/// page. It calls the kernel itself, as sanitizers track calls of the C library.
class AllMappings {
 public:
  AllMappings() {
    const auto found = syscall(SYS_mmap, nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(found != -1);
    begin_ = static_cast<std::uintptr_t>(found);
    for (std::size_t at = page; at < bytes && !all_; at += 2 * page)
      all_ = syscall(SYS_mprotect, begin_ + at, page, PROT_READ) != 0;
    // If no mapping can be cut any more, the kernel may still map something.
    for (auto& last : last_)
      if (all_) last = syscall(SYS_mmap, nullptr, page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  }
  ~AllMappings() {
    syscall(SYS_munmap, begin_, bytes);
    for (const auto last : last_)
      if (last > 0) syscall(SYS_munmap, last, page);
  }
  AllMappings(const AllMappings&) = delete;
  AllMappings& operator=(const AllMappings&) = delete;

  [[nodiscard]] bool all() const { return all_; }

 private:
  static constexpr std::size_t page = 4096;
  static constexpr std::size_t bytes = page << 21;
  std::uintptr_t begin_ = 0;
  bool all_ = false;
  std::array<long, 4> last_{};
};

/// Takes and frees blocks of all the sizes that a message has. Then the allocator has some of each without asking the
/// system; AddressSanitizer's asks for each size.
void make_heap_ready() {
  std::vector<std::string> blocks;
  for (std::size_t bytes = 16; bytes <= 16'384; bytes += bytes < 1024 ? 16 : bytes / 8)
    for (int i = 0; i < 4; ++i) blocks.emplace_back(bytes, '.');
}

TEST_CASE("a process with as many mappings as the system allows gets an error with the number and what to raise") {
  const auto fd = create_memfd("test", 3 * mib).value();
  const auto bytes = GENERATE(std::size_t{4096}, std::size_t{3 * mib});
  const auto limit = std::to_string(mappings_max());
  std::optional<Result<Mapping>> mapped;
  bool all = false;
  {
    make_heap_ready();
    const AllMappings taken;
    all = taken.all();
    mapped.emplace(Mapping::map(fd, bytes, Access::read_write));
  }
  REQUIRE(mapped->ok() == !all);
  if (!all) return;  // the limit is millions
  const auto& error = mapped->error();
  CHECK(error.code() == Code::quota_exceeded);
  CHECK(error.message() == "can't map " + std::to_string(bytes) + " bytes: process " + std::to_string(getpid()) +
                               " has as many memory mappings as the system allows, vm.max_map_count is " + limit);
  CHECK(error.hint().find("sysctl -w vm.max_map_count=") != std::string::npos);
  CHECK(Mapping::map(fd, bytes, Access::read_write));
}

TEST_CASE("seals hold: no resize, and no seal against writers while one is mapped") {
  const auto fd = create_memfd("test", 4096).value();
  auto writer = Mapping::map(fd, 4096, Access::read_write).value();
  REQUIRE(add_seals(fd, F_SEAL_SHRINK | F_SEAL_GROW));
  REQUIRE(ftruncate(fd.get(), 0) != 0);
  REQUIRE(errno == EPERM);
  REQUIRE(add_seals(fd, F_SEAL_WRITE).error().code() == Code::invalid);
  writer.unmap();
  REQUIRE(add_seals(fd, F_SEAL_WRITE));
  REQUIRE_FALSE(Mapping::map(fd, 4096, Access::read_write));
}

TEST_CASE("an eventfd is readable after signals, and not after a drain") {
  const auto fd = create_eventfd().value();
  std::uint64_t count = 0;
  signal(fd);
  signal(fd);
  REQUIRE(read(fd.get(), &count, sizeof count) == sizeof count);
  REQUIRE(count == 2);
  signal(fd);
  drain(fd);
  REQUIRE(read(fd.get(), &count, sizeof count) == -1);
  REQUIRE(errno == EAGAIN);
  drain(fd);  // does not block
}

}  // namespace
}  // namespace muster::ipc
