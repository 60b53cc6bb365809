// The codes of ops that failed so long ago that nothing else is kept of them, for ranks that are far behind. These ops
// are matched by order.
#pragma once

#include <cstdint>
#include <map>

#include "collective/pending_op.hpp"

namespace musterd {

class FailedCodes {
 public:
  /// Keeps the code of an op that failed and is about to be dropped. Its charge pays for that. Ops are dropped in their
  /// order.
  void keep(PendingOp& op);
  /// The code of a dropped op that somebody may still come to.
  [[nodiscard]] muster::Code code_of(std::uint64_t sequence) const;
  /// Forgets some codes that no rank can ask for any more. `slowest` is where the rank is that is furthest behind, and
  /// `end` the sequence number of the first op that has not been dropped.
  void forget_some(std::uint64_t slowest, std::uint64_t end);
  void forget_first() { rows_.erase(rows_.begin()); }
  [[nodiscard]] bool empty() const { return rows_.empty(); }

  /// Dropped ops in a row whose codes are the same. There may be any number of such ops, and few rows.
  struct Row {
    muster::Code code{};
    Charge charge;  ///< of the first of them
  };
  [[nodiscard]] const std::map<std::uint64_t, Row>& rows() const { return rows_; }

 private:
  std::map<std::uint64_t, Row> rows_;  ///< by the first sequence number
};

}  // namespace musterd
