// What is remembered of failed ops: the errors of the last ones, for ranks that come late. It owns no op.
#pragma once

#include <cstddef>
#include <map>
#include <memory>

#include "collective/pending_op.hpp"

namespace musterd {

class FailedOps {
 public:
  /// `count_max` failures are remembered, in about `bytes_max` bytes.
  FailedOps(int world_size, std::size_t count_max, std::size_t bytes_max)
      : world_size_(world_size), count_max_(count_max), bytes_max_(bytes_max) {}

  /// The error as the op will remember it. It is shortened to what can be remembered in `paid` bytes, unless that is 0.
  [[nodiscard]] std::unique_ptr<Failure> make_failure(const PendingOp& op, const muster::Error& error,
                                                      std::size_t paid) const;
  /// The op fails and remembers its failure. `payer` pays for that. If this throws, nothing has happened.
  void remember(PendingOp& op, std::unique_ptr<Failure> failure, Charge& payer);
  /// The op ends, or is about to forget its failure.
  void forget(const PendingOp& op);

  /// True if the oldest failure has to be forgotten.
  [[nodiscard]] bool are_too_many() const { return ops_.size() > count_max_ || bytes_ > bytes_max_; }
  /// Of the op that failed first, only the code is kept from now on. Returns the op.
  PendingOp& forget_oldest();
  [[nodiscard]] std::size_t count_max() const { return count_max_; }

 private:
  /// About what remembering a failure takes, beside its error.
  [[nodiscard]] std::size_t bytes_beside(const PendingOp& op) const;

  int world_size_;
  std::size_t count_max_;
  std::size_t bytes_max_;
  std::map<OpId, PendingOp*> ops_;  ///< the oldest first
  std::size_t bytes_ = 0;
};

}  // namespace musterd
