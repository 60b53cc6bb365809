// Segments as those of a GPU: each is there when the test says so, or never. They have addresses on the host, so that
// the host's lane can do what a GPU would.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "memory/heap_backing.hpp"

namespace musterd::testing {

class LateMemory final : public HeapMemory {
 public:
  LateMemory(const SegmentSpec& spec, std::shared_ptr<Alive> alive, bool late)
      : HeapMemory(spec, std::move(alive)), coming_(late) {}

  /// The device has made the memory, or can't.
  void finish(muster::Result<void> made) {
    coming_ = false;
    if (!made) lost_ = made.error();
    for (const auto& then : std::exchange(waiting_, {})) then(made);
  }
  [[nodiscard]] muster::Result<bool> when_made(std::function<void(muster::Result<void>)> then) override {
    if (lost_) return *lost_;
    if (coming_) waiting_.push_back(std::move(then));
    return !coming_;
  }
  [[nodiscard]] bool is_lost() const noexcept override { return lost_.has_value(); }
  [[nodiscard]] muster::Result<void> seal_hard() override {
    return muster::Error(muster::Code::invalid, "the driver has no seals");
  }

 private:
  bool coming_;
  std::optional<muster::Error> lost_;
  std::vector<std::function<void(muster::Result<void>)>> waiting_;
};

class LateBacking final : public SegmentBacking {
 public:
  /// `is_late` says of each segment whether it waits for finish_one().
  explicit LateBacking(std::function<bool()> is_late) : is_late_(std::move(is_late)) {}

  [[nodiscard]] Limits limits() const noexcept override {
    return {.granularity_bytes = 64 << 10, .bytes_max = std::uint64_t{1} << 36};
  }
  [[nodiscard]] muster::Result<SegmentMemoryPtr> create(const SegmentSpec& spec) override {
    const bool late = is_late_();
    auto made = std::make_shared<LateMemory>(spec, alive_, late);
    if (!made->has_memory()) return muster::Error(muster::Code::failed, "the test has no memory left");
    if (late) coming_.push_back(made);
    return SegmentMemoryPtr(std::move(made));
  }
  /// The one that has waited longest. False if none waits.
  bool finish_one(const muster::Result<void>& made) {
    while (!coming_.empty()) {
      const auto first = coming_.front().lock();
      coming_.erase(coming_.begin());
      if (first) return first->finish(made), true;
    }
    return false;
  }

 private:
  std::function<bool()> is_late_;
  std::shared_ptr<HeapMemory::Alive> alive_ = std::make_shared<HeapMemory::Alive>();
  std::vector<std::weak_ptr<LateMemory>> coming_;
};

}  // namespace musterd::testing
