// Attacks on sealed segments, with everything that a reader of the same user can do with its descriptor. The bytes must
// stay what the writer wrote.
#include <catch2/catch.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "memory/client_side.hpp"
#include "memory/quotas.hpp"

using namespace musterd;
using namespace musterd::testing;
namespace ipc = muster::ipc;

namespace {

constexpr std::size_t bytes = 4 * 4096;
constexpr Payer owner{1000, {1}};

ipc::Fd reopen(int fd, int flags) {
  return ipc::Fd(::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), flags | O_CLOEXEC));
}

void attack_descriptor(int fd) {
  const char evil[16] = "evil";
  CHECK(::pwrite(fd, evil, sizeof evil, 0) == -1);
  CHECK(::write(fd, evil, sizeof evil) == -1);
  CHECK(::ftruncate(fd, 0) == -1);
  CHECK(::ftruncate(fd, 2 * bytes) == -1);
  CHECK(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, bytes) == -1);
  CHECK(::fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, bytes) == -1);
  CHECK(::fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096) == -1);
  CHECK(::fallocate(fd, 0, 0, 2 * bytes) == -1);
  CHECK(::fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) == -1);
  CHECK(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
  CHECK(::mmap(nullptr, bytes, PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
  auto source = ipc::create_memfd("evil", bytes);
  REQUIRE(source);
  off_t from = 0;
  CHECK(::sendfile(fd, source->get(), &from, bytes) == -1);
  CHECK(::copy_file_range(source->get(), nullptr, fd, nullptr, bytes, 0) == -1);
}

void attack_mapping(int fd) {
  void* shared = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  REQUIRE(shared != MAP_FAILED);
  CHECK(::mprotect(shared, bytes, PROT_READ | PROT_WRITE) == -1);
  CHECK(::madvise(shared, bytes, MADV_REMOVE) == -1);
  // /proc/self/mem writes through protections if the kernel allows it.
  const ipc::Fd memory(::open("/proc/self/mem", O_RDWR | O_CLOEXEC));
  char evil[16] = "evil";
  if (memory) CHECK(::pwrite(memory.get(), evil, sizeof evil, reinterpret_cast<off_t>(shared)) == -1);
  iovec local{evil, sizeof evil};
  iovec remote{shared, sizeof evil};
  CHECK(::process_vm_writev(::getpid(), &local, 1, &remote, 1, 0) == -1);
  ::munmap(shared, bytes);
  // A process may write into a private mapping; nobody else sees that.
  void* own = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  REQUIRE(own != MAP_FAILED);
  std::memset(own, 0xee, bytes);
  ::madvise(own, bytes, MADV_REMOVE);
  ::munmap(own, bytes);
}

/// `fd` is what a reader gets.
void attack(int fd) {
  attack_descriptor(fd);
  attack_mapping(fd);
  for (const int flags : {O_RDONLY, O_RDWR, O_WRONLY, O_RDWR | O_TRUNC, O_RDWR | O_APPEND}) {
    INFO("reopened with flags " << flags);
    const ipc::Fd again = reopen(fd, flags);
    if (!again) continue;
    attack_descriptor(again.get());
    if ((flags & O_ACCMODE) != O_WRONLY) attack_mapping(again.get());
  }
}

bool all_are(const std::byte* data, std::byte value) {
  return std::all_of(data, data + bytes, [&](std::byte byte) { return byte == value; });
}

}  // namespace

TEST_CASE("no reader changes a byte of a client's segment", "[memfd]") {
  Ledger ledger(memory_quota(mebibyte));
  MemfdBacking memfd;
  SegmentTable table(ledger, memfd);
  auto leased = lease_and_map(table, owner, bytes);
  std::memset(leased.mapping.data(), 0x5a, bytes);
  attack(leased.segment->descriptors().front());
  CHECK(all_are(leased.segment->data(), std::byte{0x5a}));
  CHECK(all_are(leased.mapping.data(), std::byte{0x5a}));
}

TEST_CASE("the writer of a client's segment can change its bytes but not its size, nor take pages away", "[memfd]") {
  Ledger ledger(memory_quota(mebibyte));
  MemfdBacking memfd;
  SegmentTable table(ledger, memfd);
  auto leased = lease_and_map(table, owner, bytes);
  std::memset(leased.mapping.data(), 0x5a, bytes);
  CHECK(::madvise(leased.mapping.data(), bytes, MADV_REMOVE) == -1);
  CHECK(all_are(leased.segment->data(), std::byte{0x5a}));
}

TEST_CASE("only the daemon can change a byte of a result", "[memfd]") {
  Ledger ledger(memory_quota(mebibyte));
  MemfdBacking memfd;
  SegmentTable table(ledger, memfd);
  const auto segment = result_segment(table, 1000, bytes);
  std::memset(segment->data(), 0x33, bytes);
  attack(segment->descriptors().front());
  CHECK(all_are(segment->data(), std::byte{0x33}));
}

TEST_CASE("nobody can change a byte of a hard segment, not even its maker", "[memfd]") {
  Ledger ledger(memory_quota(mebibyte));
  MemfdBacking memfd;
  SegmentTable table(ledger, memfd);
  auto leased = lease_and_map(table, owner, bytes, true);
  std::memset(leased.mapping.data(), 0x77, bytes);
  const int fd = leased.segment->descriptors().front();
  leased.mapping.unmap();
  REQUIRE(seal_now(table.hard_seal(owner.client, leased.segment->id())));
  attack(fd);
  CHECK(all_are(leased.segment->data(), std::byte{0x77}));
  const int seals = ::fcntl(fd, F_GET_SEALS);
  CHECK((seals & F_SEAL_WRITE) != 0);
  CHECK((seals & F_SEAL_SEAL) != 0);
}

TEST_CASE("the daemon's own mapping of a client's segment can't become writable", "[memfd]") {
  Ledger ledger(memory_quota(mebibyte));
  MemfdBacking memfd;
  SegmentTable table(ledger, memfd);
  auto leased = lease_and_map(table, owner, bytes);
  CHECK(::mprotect(leased.segment->data(), bytes, PROT_READ | PROT_WRITE) == -1);
}
