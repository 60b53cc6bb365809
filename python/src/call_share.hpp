// How much of the store the arrays of one decorated call may take, and which of them could not be there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace muster::python {

/// A call may hold 1/4 of the memory at once, and always a little. What is beyond comes from elsewhere.
[[nodiscard]] std::uint64_t share_of_call(std::uint64_t memory_bytes);

/// Why an array of a call is not in the store.
enum class NotStored : std::uint8_t { elsewhere, too_large, full };

/// The memory that a call got from elsewhere. If there is very much, only the first is remembered. Thread-safe.
class Refusals {
 public:
  void add(const void* address, std::size_t bytes, NotStored why) noexcept;
  [[nodiscard]] NotStored why(const void* data) const;

 private:
  struct Refused {
    const std::byte* address = nullptr;
    std::size_t bytes = 0;
    NotStored why = NotStored::full;
  };
  mutable std::mutex mutex_;
  std::vector<Refused> refused_;
};

}  // namespace muster::python
