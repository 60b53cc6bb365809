#include "memory/segment.hpp"

#include <algorithm>
#include <utility>

#include "memory/segment_table.hpp"

namespace musterd {

Resident::Resident(Segment& segment, ObjectId object, std::uint64_t bytes)
    : segment_(&segment), object_(object), bytes_(bytes) {
  auto& beside = segment.table_->bytes_beside_objects_;
  beside -= segment.bytes_beside_objects();
  segment.residents_.push_back(*this);
  segment.live_bytes_ += bytes;
  beside += segment.bytes_beside_objects();
}

Resident::Resident(Resident&& other) noexcept
    : segment_(std::exchange(other.segment_, nullptr)), object_(other.object_), bytes_(other.bytes_) {
  auto& all = segment_->residents_;
  all.insert(all.iterator_to(other), *this);
  all.erase(all.iterator_to(other));
}

Resident::~Resident() {
  if (!segment_) return;
  auto& beside = segment_->table_->bytes_beside_objects_;
  beside -= segment_->bytes_beside_objects();
  segment_->residents_.erase(segment_->residents_.iterator_to(*this));
  segment_->live_bytes_ -= bytes_;
  beside += segment_->bytes_beside_objects();
  segment_->table_->note_if_sparse(*segment_);
}

bool Segment::is_sparse() const {
  constexpr std::uint64_t beyond = 64 << 10;  // how much each object may keep beside twice its bytes
  return orphan_ && state_ == State::ready && device_ == muster::Device::cpu() &&
         bytes_ > 2 * live_bytes_ + beyond * live_objects();
}

std::uint64_t Segment::bytes_beside_objects() const {
  return residents_.empty() || in_place_ ? 0 : bytes_ - std::min(bytes_, live_bytes_);
}

std::vector<ObjectId> Segment::next_residents(std::size_t count_max) {
  std::vector<ObjectId> objects;
  for (auto left = std::min(count_max, residents_.size()); left > 0; --left) {
    objects.push_back(residents_.front().object_);
    residents_.splice(residents_.end(), residents_, residents_.begin());
  }
  return objects;
}

}  // namespace musterd
