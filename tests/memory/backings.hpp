// Which backing the segments of a test have. The suites of memory, store and session run twice: over memfds, and with
// MUSTER_TEST_BACKING=heap over plain memory. Tests about memfds, or about what a process needs for them, have the tag
// [memfd] and run only over memfds. See muster_test_over_backings() in tests/CMakeLists.txt.
#pragma once

#include <fcntl.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include <muster/ipc/fd.hpp>

#include "memory/heap_backing.hpp"
#include "memory/memfd_backing.hpp"
#include "memory/segment.hpp"

namespace musterd::testing {

/// The backing of this run.
inline SegmentBacking& backing() {
  static MemfdBacking memfd;
  static HeapBacking heap;
  static const std::string chosen = [] {
    const char* name = std::getenv("MUSTER_TEST_BACKING");
    return std::string(name ? name : "memfd");
  }();
  if (chosen == "heap") return heap;
  if (chosen != "memfd") throw std::invalid_argument("MUSTER_TEST_BACKING=" + chosen + " (use memfd or heap)");
  return memfd;
}

/// What a client has of a leased segment: a mapping of the descriptor that it was sent, or the memory itself if there
/// is no descriptor.
class WriterMapping {
 public:
  WriterMapping() = default;
  WriterMapping(WriterMapping&& other) noexcept
      : mapping_(std::move(other.mapping_)),
        heap_(std::move(other.heap_)),
        data_(std::exchange(other.data_, nullptr)) {}
  WriterMapping& operator=(WriterMapping&& other) noexcept {
    if (this == &other) return *this;
    unmap();
    mapping_ = std::move(other.mapping_);
    heap_ = std::move(other.heap_);
    data_ = std::exchange(other.data_, nullptr);
    return *this;
  }
  ~WriterMapping() { unmap(); }

  /// `sent` has the descriptors that came with the lease.
  static WriterMapping map(const Segment& segment, std::span<const int> sent) {
    if (sent.size() != segment.descriptors().size()) throw std::runtime_error("not the descriptors of the segment");
    WriterMapping made;
    if (sent.empty()) {
      made.heap_ = std::dynamic_pointer_cast<HeapMemory>(segment.memory());
      made.data_ = made.heap_->writer_maps();
    } else {
      const muster::ipc::Fd copy(::fcntl(sent.front(), F_DUPFD_CLOEXEC, 0));
      made.mapping_ = muster::ipc::Mapping::map(copy, segment.bytes(), muster::ipc::Access::read_write).value();
      made.data_ = made.mapping_.data();
    }
    return made;
  }
  void unmap() {
    mapping_.unmap();
    if (heap_) heap_->writer_unmaps();
    heap_.reset();
    data_ = nullptr;
  }
  [[nodiscard]] std::byte* data() const { return data_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  muster::ipc::Mapping mapping_;
  std::shared_ptr<HeapMemory> heap_;
  std::byte* data_ = nullptr;
};

}  // namespace musterd::testing
