#include "fork_copies.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace muster::detail {

/// Read through the file: other threads may be writing these arrays now, as they may during any fork, and what the
/// kernel reads meanwhile is no race of this program.
ForkCopies::Copy ForkCopies::copy_of(const Stretch& stretch) {
  std::vector<std::byte> bytes(stretch.bytes);
  std::uint64_t done = 0;
  while (done < bytes.size()) {
    const auto got =
        ::pread(stretch.fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(stretch.offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    done += static_cast<std::uint64_t>(got);
  }
  return {stretch.address, std::move(bytes), done == stretch.bytes};
}

void ForkCopies::take(const Arena& arena) {
  copies_.clear();
  for (const auto& stretch : arena.unsealed()) copies_.push_back(copy_of(stretch));
}

namespace {

/// From here on a write of this process stays in it.
void make_private(const Stretch& stretch) {
  void* mapped = ::mmap(stretch.address, stretch.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, stretch.fd, 0);
  // A child that could reach into its parent's memory must not run.
  if (mapped == MAP_FAILED) std::abort();
}

}  // namespace

void ForkCopies::move_in(const Arena& arena) {
  for (const auto& stretch : arena.writable()) make_private(stretch);
  // Pages that the parent writes later would still show through untouched ones, hence the copies.
  for (const auto& copy : copies_) {
    if (!copy.whole) std::abort();  // an array with a hole in it must not be computed with
    std::memcpy(copy.address, copy.bytes.data(), copy.bytes.size());
  }
  copies_.clear();
}

}  // namespace muster::detail
