// Segments of plain heap memory, without descriptors or system calls, so that thousands of nodes fit in one process. A
// writer gets the very memory that the node reads. Under AddressSanitizer, a read beyond a segment is caught.
#pragma once

#include <atomic>
#include <cstdlib>
#include <memory>
#include <utility>

#include "memory/backing.hpp"

namespace musterd::testing {

class HeapMemory : public SegmentMemory {
 public:
  /// Counts what was made and not given back, for all memory of one backing.
  struct Alive {
    std::atomic<std::size_t> segments{0};
    std::atomic<std::uint64_t> bytes{0};
  };

  HeapMemory(const SegmentSpec& spec, std::shared_ptr<Alive> alive)
      : spec_(spec),
        readable_(spec.writer == SegmentSpec::Writer::daemon),
        // Large blocks come zeroed from the system, and take no memory before they are touched.
        block_(std::calloc(1, spec.bytes + alignment_bytes)),
        alive_(std::move(alive)) {
    ++alive_->segments;
    alive_->bytes += spec_.bytes;
  }
  ~HeapMemory() override {
    std::free(block_);
    --alive_->segments;
    alive_->bytes -= spec_.bytes;
  }

  [[nodiscard]] bool has_memory() const { return block_ != nullptr; }
  /// Returns all of it to its writer. It can't be sealed hard before as many calls of writer_unmaps().
  [[nodiscard]] std::byte* writer_maps() {
    ++writers_;
    return data();
  }
  void writer_unmaps() { --writers_; }

  [[nodiscard]] int descriptor() const noexcept override { return -1; }
  [[nodiscard]] std::span<std::byte> host() const noexcept override {
    return readable_ ? std::span(data(), spec_.bytes) : std::span<std::byte>();
  }
  void close_descriptor() noexcept override {}
  [[nodiscard]] muster::Result<void> seal() override {
    readable_ = true;
    return {};
  }
  [[nodiscard]] muster::Result<void> seal_hard() override {
    if (writers_ == 0) return {};
    return muster::Error(muster::Code::invalid, label(spec_.id) + " still has a writer", "unmap it first");
  }
  [[nodiscard]] bool populate(std::uint64_t, std::uint64_t) noexcept override { return false; }

 private:
  static constexpr std::size_t alignment_bytes = 64;
  [[nodiscard]] std::byte* data() const noexcept {
    const auto address = reinterpret_cast<std::uintptr_t>(block_);
    return static_cast<std::byte*>(block_) + (alignment_bytes - address % alignment_bytes) % alignment_bytes;
  }

  SegmentSpec spec_;
  bool readable_;
  void* block_;
  std::shared_ptr<Alive> alive_;
  std::size_t writers_ = 0;
};

class HeapBacking final : public SegmentBacking {
 public:
  [[nodiscard]] Limits limits() const noexcept override {
    return {.granularity_bytes = 4096, .bytes_max = std::uint64_t{1} << 46};
  }
  [[nodiscard]] muster::Result<SegmentMemoryPtr> create(const SegmentSpec& spec) override {
    auto made = std::make_shared<HeapMemory>(spec, alive_);
    if (!made->has_memory()) return muster::Error(muster::Code::failed, "the test has no memory left");
    return SegmentMemoryPtr(std::move(made));
  }
  [[nodiscard]] const HeapMemory::Alive& alive() const { return *alive_; }

 private:
  std::shared_ptr<HeapMemory::Alive> alive_ = std::make_shared<HeapMemory::Alive>();
};

}  // namespace musterd::testing
