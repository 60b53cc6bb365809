#include "call_share.hpp"

#include <algorithm>
#include <new>

namespace muster::python {

std::uint64_t share_of_call(std::uint64_t memory_bytes) {
  constexpr std::uint64_t share_of_memory = 4;
  constexpr std::uint64_t bytes_min = 64 << 20;
  return std::max(bytes_min, memory_bytes / share_of_memory);
}

void Refusals::add(const void* address, std::size_t bytes, NotStored why) noexcept try {
  constexpr std::size_t remembered_max = 64;
  if (!address) return;
  const std::lock_guard lock(mutex_);
  if (refused_.size() < remembered_max) refused_.push_back({static_cast<const std::byte*>(address), bytes, why});
} catch (const std::bad_alloc&) {
  // Then nobody learns why the array was copied.
}

NotStored Refusals::why(const void* data) const {
  const auto* byte = static_cast<const std::byte*>(data);
  const std::lock_guard lock(mutex_);
  // Searches from the latest: the same address may have come again.
  for (auto refused = refused_.rbegin(); refused != refused_.rend(); ++refused)
    if (byte >= refused->address && byte < refused->address + refused->bytes) return refused->why;
  return NotStored::elsewhere;
}

}  // namespace muster::python
