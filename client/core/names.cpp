#include "names.hpp"

#include <sys/random.h>

#include <cstdlib>
#include <mutex>

namespace muster::detail {

ipc::Capability Names::random_capability() {
  constexpr std::size_t words = 32;  // the kernel returns this many at once and is never interrupted
  const std::lock_guard lock(mutex_);
  if (random_.size() < 2) {
    random_.resize(words);
    const auto bytes = words * sizeof(std::uint64_t);
    // A process without random numbers must end: its capabilities could be guessed.
    if (::getrandom(random_.data(), bytes, 0) != static_cast<ssize_t>(bytes)) std::abort();
  }
  ipc::Capability capability;
  for (auto& word : capability.bits) {
    word = random_.back();
    random_.pop_back();
  }
  return capability;
}

}  // namespace muster::detail
