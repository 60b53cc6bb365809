// The gathering of contributions: all pending ops of one epoch of one group. An op starts when every live seat
// has contributed and all agree, and ends with one outcome that every seat gets, late ones too.
// Pure: contributions, losses and time in; actions out.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include <muster/ipc/records.hpp>
#include <muster/result.hpp>

#include "base/time.hpp"
#include "collective/input.hpp"

namespace musterd {

/// Where an outcome has to go: chosen by the caller, unique per contribution.
using Ticket = std::uint64_t;
using OpId = std::uint64_t;

struct Contribution {
  int rank = 0;
  muster::ipc::Kind kind = muster::ipc::Kind::barrier;
  muster::ReduceOp op = muster::ReduceOp::sum;
  muster::ipc::Layout layout = muster::ipc::Layout::parts;
  int root = 0;           ///< root; peer for send and recv; color for split
  std::int64_t tag = 0;   ///< tag of send and recv; key for split
  TimePoint deadline;
  std::string key;        ///< empty: matched by order
  std::vector<Input> inputs;
  Ticket ticket = 0;
};

/// A complete muster: contributions of the contributing ranks, in rank order.
struct Op {
  OpId id = 0;
  std::string name;  ///< "allreduce #17" or "allreduce 'key'", for messages and logs
  int world_size = 0;
  std::vector<Contribution> contributions;
  [[nodiscard]] const Contribution* of_rank(int rank) const;
};
using OpPtr = std::shared_ptr<const Op>;

/// The muster is complete: plan it, run it, then call finished().
struct StartOp {
  OpPtr op;
};
/// The op ended with this error; tell all these seats.
struct FailOp {
  OpId op = 0;
  muster::Error error;
  std::vector<Ticket> tickets;
};
using Action = std::variant<StartOp, FailOp>;

class Muster {
 public:
  struct Limits {
    std::size_t in_flight_max = 4096;  ///< ops that one seat may have pending; more: QuotaExceeded
    std::size_t history_max = 4096;    ///< failed outcomes kept for late seats
  };
  /// `members`: the ranks that take part in this epoch; others are absent and not waited for.
  Muster(int world_size, std::set<int> members, Limits limits);

  /// One rank's input. Appends what has to be done. A contribution to an op that has already failed gets that
  /// same outcome at once (a FailOp with this one ticket).
  void contribute(Contribution contribution, TimePoint now, std::vector<Action>& actions);
  /// The engine is done with a started op (well or not).
  void finished(OpId op);
  /// The rank is lost (policy fail): every op that waits for it fails with PeerLost, and from now on every
  /// contribution does. `lost` accumulates.
  void lose(int rank, std::string reason, std::vector<Action>& actions);
  /// The rank is lost and nobody waits for it any more (policy shrink): ops that only waited for it start.
  /// Ops that need it in person (root, peer) fail with PeerLost.
  void shrink(int rank, std::string reason, std::vector<Action>& actions);
  /// The rank is vacant (policy wait): ops go on waiting for a replacement; at their deadline they fail with PeerLost.
  void vacate(int rank, std::string reason);
  /// A replacement took the seat; it goes on where the seat stands.
  void reoccupy(int rank);
  /// Ops whose deadline has passed fail: Timeout naming the missing ranks (PeerLost if a vacant seat is missing).
  void expire(TimePoint now, std::vector<Action>& actions);
  /// Every pending op fails with this error (stop, group gone).
  void abort(const muster::Error& error, std::vector<Action>& actions);

  [[nodiscard]] std::optional<TimePoint> next_deadline() const;
  /// Ranks that the op of this ticket still waits for; nothing if it waits for none or is over.
  [[nodiscard]] std::vector<int> missing(Ticket ticket) const;
  /// Sequence number of the rank's next op matched by order.
  [[nodiscard]] std::uint64_t position(int rank) const;
  struct Owed {
    std::uint64_t sequence = 0;
    std::string key;
    muster::ipc::Kind kind = muster::ipc::Kind::barrier;
  };
  /// Ops that wait for this rank.
  [[nodiscard]] std::vector<Owed> owed(int rank) const;
  [[nodiscard]] std::size_t in_flight() const;
  [[nodiscard]] const std::set<int>& lost() const;
  [[nodiscard]] const std::set<int>& members() const;
};

}  // namespace musterd
