// Segments as those of a GPU: each is there when the test says so, or never. They have addresses on the host, so that
// the host's lane can do what a GPU would.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "memory/heap_backing.hpp"

namespace musterd::testing {

class LateMemory final : public HeapMemory {
 public:
  LateMemory(const SegmentSpec& spec, std::shared_ptr<Alive> alive, bool late)
      : HeapMemory(spec, std::move(alive)), coming_(late) {
    if (!spec.in_place) return;
    in_place_ = *spec.in_place;
    static_cast<void>(seal());  // its writer has it already
  }
  using Closings = std::shared_ptr<std::list<std::function<void()>>>;
  /// Where what has ended waits until the device has closed it, if it was left in place.
  void close_by(Closings closing) { closing_ = std::move(closing); }
  ~LateMemory() override {
    if (closing_) closing_->splice(closing_->end(), closed_);
  }

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
  [[nodiscard]] bool is_lost() const noexcept override { return lost_ || owner_gone_; }
  [[nodiscard]] const muster::ipc::InPlaceMemory* in_place() const noexcept override {
    return in_place_ ? &*in_place_ : nullptr;
  }
  void lose_owner() noexcept override { owner_gone_ = true; }
  void when_closed(std::function<void()> then) override { closed_.push_back(std::move(then)); }
  [[nodiscard]] muster::Result<void> seal_hard() override {
    return muster::Error(muster::Code::invalid, "the driver has no seals");
  }

 private:
  bool coming_;
  std::optional<muster::Error> lost_;
  std::optional<muster::ipc::InPlaceMemory> in_place_;
  bool owner_gone_ = false;
  Closings closing_;
  std::list<std::function<void()>> closed_;  ///< one, if somebody asks: to end takes no memory
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
    made->close_by(closing_);
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
  /// Closes what has ended first of what was left in place. False if nothing has.
  bool close_one() {
    if (closing_->empty()) return false;
    const auto closed = std::move(closing_->front());
    closing_->pop_front();
    closed();
    return true;
  }

 private:
  std::function<bool()> is_late_;
  LateMemory::Closings closing_ = std::make_shared<std::list<std::function<void()>>>();
  std::shared_ptr<HeapMemory::Alive> alive_ = std::make_shared<HeapMemory::Alive>();
  std::vector<std::weak_ptr<LateMemory>> coming_;
};

}  // namespace musterd::testing
