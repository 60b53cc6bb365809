// The ops that gather, in the orders in which they are looked for: by deadline, by handle, and by the ranks that owe
// them a contribution. It owns no op. Nothing here needs memory, except an answer.
#pragma once

#include <boost/intrusive/set.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <muster/ipc/records.hpp>

#include "base/time.hpp"
#include "collective/pending_op.hpp"

namespace musterd {

class GatheringOps {
  struct Sooner {
    bool operator()(const PendingOp& a, const PendingOp& b) const {
      return std::tie(a.deadline, a.id) < std::tie(b.deadline, b.id);
    }
  };
  struct HandleOf {
    using type = PendingOp::Handle;
    type operator()(const PendingOp& op) const { return op.handle(); }
  };

 public:
  explicit GatheringOps(int world_size)
      : in_flight_(static_cast<std::size_t>(world_size)), owed_bytes_(static_cast<std::size_t>(world_size)) {}

  /// The newest op begins to gather.
  void begin(PendingOp& op);
  /// A contribution of this rank has come to the op.
  void add_contribution(const PendingOp& op, int rank);
  /// The op's deadline is the earliest of its ranks'.
  void hasten(PendingOp& op, TimePoint deadline);
  void end(PendingOp& op);

  [[nodiscard]] std::size_t size() const { return size_; }
  /// How many contributions of the rank are in ops that gather.
  [[nodiscard]] std::size_t in_flight(int rank) const { return in_flight_[static_cast<std::size_t>(rank)]; }

  /// The op with the earliest deadline; null if none gathers.
  [[nodiscard]] PendingOp* next() { return by_deadline_.empty() ? nullptr : &*by_deadline_.begin(); }
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;
  /// Null if the op is over.
  [[nodiscard]] const PendingOp* find(PendingOp::Handle handle) const;

  struct Owed {
    std::uint64_t sequence = 0;
    std::string key;
    muster::ipc::Kind kind = muster::ipc::Kind::barrier;
  };
  /// The ops that wait for this rank. `position`: see PendingOp::owes(). This takes time for each of them, and for each
  /// op that gathers and has the rank's contribution already.
  [[nodiscard]] std::vector<Owed> owed(int rank, std::uint64_t position) const;
  /// About how many bytes it takes to name these ops.
  [[nodiscard]] std::size_t owed_bytes(int rank) const {
    return nameable_bytes_ + owed_bytes_[static_cast<std::size_t>(rank)];
  }
  /// The name of an op that the rank has come to. Empty if there is none among the ops with the next deadlines.
  [[nodiscard]] std::string where_it_waits(int rank, std::uint64_t position) const;

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  /// Adds what it takes to name the op to what its peer owes, or all ranks do.
  void add_owed(const PendingOp& op, std::uint64_t bytes);

  std::vector<std::uint32_t> in_flight_;  ///< by rank
  /// By rank: what it takes to name the sends and receives that wait for it, less what it takes to name the other ops
  /// that it has come to. So this may wrap around; the sum with nameable_bytes_ does not.
  std::vector<std::uint64_t> owed_bytes_;
  std::uint64_t nameable_bytes_ = 0;  ///< what it takes to name all ops, except sends and receives
  boost::intrusive::set<PendingOp, boost::intrusive::base_hook<OpByDeadline>, boost::intrusive::compare<Sooner>,
                        boost::intrusive::constant_time_size<false>>
      by_deadline_;
  boost::intrusive::set<PendingOp, boost::intrusive::base_hook<OpByHandle>, boost::intrusive::key_of_value<HandleOf>,
                        boost::intrusive::constant_time_size<false>>
      by_handle_;
  std::size_t size_ = 0;
};

}  // namespace musterd
