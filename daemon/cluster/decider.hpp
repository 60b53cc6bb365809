// The seam between ranks that agree and an op that begins. On one node nobody else has to be asked, and the answer
// comes at once (LocalDecider). In a cluster a group has a leader: its answers come later, in any order, and may be
// refusals.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include <muster/ipc/records.hpp>
#include <muster/result.hpp>

#include "cluster/group.hpp"

namespace musterd {

/// What the ranks of this node want to be decided.
struct Proposal {
  enum class About : std::uint8_t {
    op,     ///< all contributions that can come here are here, and agree
    epoch,  ///< the running epoch is over, as no member is left on this node
  };
  About about = About::op;
  const Group& group;
  muster::ipc::Kind kind = muster::ipc::Kind::barrier;  ///< of the op
  std::uint64_t op = 0;                                 ///< its number, which contains its epoch
};

/// The answer, which is the same on all nodes.
struct Decision {
  /// The op begins, or fails on every seat with this error. A new epoch is never refused.
  muster::Result<void> outcome;
  /// The number of the epoch that begins with a reform, or after the end of an epoch. Larger than that of any earlier
  /// one.
  std::uint32_t next_epoch = 0;
};

class Decider {
 public:
  Decider() = default;
  Decider(const Decider&) = delete;
  Decider& operator=(const Decider&) = delete;
  virtual ~Decider() = default;

  /// Control thread, never waits. Returns the decision if it is known at once. Otherwise `decided` is called once, on
  /// the control thread, in bounded time and never within propose(). Until then the op is undecided, even if its
  /// deadline passes or a seat is lost, as other nodes may have begun it.
  [[nodiscard]] virtual std::optional<Decision> propose(const Proposal& proposal,
                                                        std::function<void(Decision)> decided) = 0;
};

/// Decides at once, as there is only one node.
class LocalDecider final : public Decider {
 public:
  [[nodiscard]] std::optional<Decision> propose(const Proposal& proposal,
                                                std::function<void(Decision)> /*decided*/) override {
    return Decision{{}, proposal.group.epoch() + 1};
  }
};

}  // namespace musterd
