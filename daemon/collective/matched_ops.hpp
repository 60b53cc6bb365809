// The ops that have a match: those with a key, sends and receives, and reforms. A rank that makes such a call again
// begins the next op of that match.
#pragma once

#include <list>
#include <map>

#include "collective/pending_op.hpp"

namespace musterd {

class MatchedOps {
 public:
  using Ops = std::list<PendingOp>;  ///< of one match, the oldest first
  explicit MatchedOps(int world_size) : world_size_(world_size) {}

  /// Whether the contribution meets no op that is there.
  [[nodiscard]] bool begins_op(const Contribution& contribution) const;
  /// The op that the contribution meets, which is added if it is new.
  [[nodiscard]] PendingOp& find_or_add(const Contribution& contribution);
  void remove(const PendingOp& op);

  /// Null if there are none.
  [[nodiscard]] Ops* find(const Match& match);
  /// Forgets the match if it has no op any more.
  void tidy(const Match& match);

  [[nodiscard]] bool empty() const { return ops_.empty(); }
  [[nodiscard]] PendingOp& first() { return ops_.begin()->second.front(); }
  void remove_first();
  [[nodiscard]] const std::map<Match, Ops>& all() const { return ops_; }

 private:
  int world_size_;
  std::map<Match, Ops> ops_;  ///< no list is empty
};

}  // namespace musterd
