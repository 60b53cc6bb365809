// Bytes that a test owns, in the form that plans and lanes use: the memory of a segment, and a place in it.
#pragma once

#include <cstddef>
#include <deque>
#include <span>

#include "memory/place.hpp"

namespace musterd::testing {

class BorrowedMemory final : public SegmentMemory {
 public:
  explicit BorrowedMemory(std::span<std::byte> bytes) : bytes_(bytes) {}
  [[nodiscard]] int descriptor() const noexcept override { return -1; }
  [[nodiscard]] std::span<std::byte> host() const noexcept override { return bytes_; }
  void close_descriptor() noexcept override {}
  [[nodiscard]] muster::Result<void> seal() override { return {}; }
  [[nodiscard]] muster::Result<void> seal_hard() override { return {}; }
  [[nodiscard]] bool populate(std::uint64_t, std::uint64_t) noexcept override { return false; }

 private:
  std::span<std::byte> bytes_;
};

/// Makes places of bytes that live longer than this object.
class Borrowed {
 public:
  [[nodiscard]] Place place(std::span<std::byte> bytes) { return {&memories_.emplace_back(bytes), 0}; }

 private:
  std::deque<BorrowedMemory> memories_;
};

}  // namespace musterd::testing
