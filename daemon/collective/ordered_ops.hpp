// The ops that are matched by order: a rank's n-th call meets every other rank's n-th.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "collective/members.hpp"
#include "collective/pending_op.hpp"

namespace musterd {

class OrderedOps {
 public:
  explicit OrderedOps(int world_size) : positions_(static_cast<std::size_t>(world_size)) {}

  /// Sequence number of the rank's next call.
  [[nodiscard]] std::uint64_t position(int rank) const { return positions_[static_cast<std::size_t>(rank)]; }
  /// The rank has made a call.
  void advance(int rank) { ++positions_[static_cast<std::size_t>(rank)]; }
  /// The smallest position of the ranks that may still come.
  [[nodiscard]] std::uint64_t slowest_position(const Members& members) const;

  /// Whether no other rank has called what this rank calls next.
  [[nodiscard]] bool begins_op(int rank) const { return position(rank) >= end(); }
  /// The op that the rank calls next, which is added if it is new. Null if it has been dropped.
  [[nodiscard]] PendingOp* find_or_add(int rank);
  void drop_newest() { ops_.pop_back(); }
  void drop_oldest();

  /// Sequence number of the oldest op.
  [[nodiscard]] std::uint64_t begin() const { return begin_; }
  /// Sequence number of the op after the newest one.
  [[nodiscard]] std::uint64_t end() const { return begin_ + ops_.size(); }
  [[nodiscard]] std::size_t size() const { return ops_.size(); }
  [[nodiscard]] bool empty() const { return ops_.empty(); }
  [[nodiscard]] PendingOp& oldest() { return ops_.front(); }
  [[nodiscard]] const std::deque<PendingOp>& all() const { return ops_; }

 private:
  std::vector<std::uint64_t> positions_;  ///< by rank
  std::deque<PendingOp> ops_;             ///< by sequence number
  std::uint64_t begin_ = 0;
};

}  // namespace musterd
