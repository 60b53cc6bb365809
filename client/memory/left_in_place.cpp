// Owners are let go of without the lock: that may free memory of a GPU, which waits.
#include "left_in_place.hpp"

#include <list>
#include <mutex>
#include <utility>

namespace muster::detail {

void LeftInPlace::add(ipc::SegmentId segment, CudaSharedPtr memory, Owner owner) {
  Kept kept;
  kept.owners.push_back(std::move(owner));
  kept.memory = std::move(memory);
  const std::lock_guard lock(mutex_);
  if (!is_over_) kept_.emplace(segment, std::move(kept));
}

bool LeftInPlace::keeps_any() const {
  const std::lock_guard lock(mutex_);
  return !kept_.empty();
}

void LeftInPlace::add_owner(ipc::SegmentId segment, Owner owner) {
  const std::lock_guard lock(mutex_);
  if (const auto found = kept_.find(segment); found != kept_.end()) found->second.owners.push_back(std::move(owner));
}

void LeftInPlace::over(ipc::SegmentId segment) {
  decltype(kept_)::node_type ended;
  const std::lock_guard lock(mutex_);
  ended = kept_.extract(segment);
}

void LeftInPlace::end() {
  decltype(kept_) ended;
  const std::lock_guard lock(mutex_);
  is_over_ = true;
  ended.swap(kept_);
}

void LeftInPlace::disown() {
  // Never destroyed: what they own belongs to the parent.
  static auto* const never_ended = new std::list<decltype(kept_)>;
  never_ended->emplace_back().swap(kept_);
}

}  // namespace muster::detail
