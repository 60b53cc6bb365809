#include "fork_copies.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace muster::detail {

/// Copies through the file: other threads may be writing these arrays now, as they may during any fork. Reads by the
/// kernel are not a data race of this program.
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

void ForkCopies::take(const Arenas& arenas) {
  copies_.clear();
  for (const auto& stretch : arenas.unsealed()) copies_.push_back(copy_of(stretch));
}

namespace {

/// From here on this process's writes into the stretch are private.
void make_private(const Stretch& stretch) {
  void* mapped = ::mmap(stretch.address, stretch.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, stretch.fd, 0);
  // A child that could reach into its parent's memory must not run.
  if (mapped == MAP_FAILED) std::abort();
}

}  // namespace

void ForkCopies::move_in(const Arenas& arenas) {
  for (const auto& stretch : arenas.writable()) make_private(stretch);
  // Pages that this process has not touched would still show what the parent writes later, so copies are needed.
  for (const auto& copy : copies_) {
    if (!copy.whole) std::abort();  // a program must not compute with an array that is copied only in part
    std::memcpy(copy.address, copy.bytes.data(), copy.bytes.size());
  }
  copies_.clear();
}

}  // namespace muster::detail
