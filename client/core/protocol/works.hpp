// Ops in flight and their seats. Pure: for each event of this process or of the daemon there is a function that returns
// what follows. The caller destroys what it returns without the lock, as the end of a work or a ref is an event itself.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <muster/group.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/ipc/records.hpp>
#include <muster/ipc/small_vector.hpp>
#include <muster/result.hpp>
#include <muster/work.hpp>

#include "work_state.hpp"

namespace muster::detail {

/// What the daemon last reported of a seat, and what this process has done there.
struct SeatState {
  std::uint32_t epoch = 0;
  std::uint64_t position = 0;  ///< among the group's ops that are matched by order
  std::vector<int> live;
  std::vector<OwedOp> owes;
  bool left = false;
  std::uint32_t in_flight = 0;
  std::map<std::string, std::uint32_t> subgroups;  ///< how many were made of the same ranks
};

class Works {
 public:
  using Callback = std::function<void()>;
  using Callbacks = std::vector<Callback>;
  /// What is no longer needed.
  struct Aftermath {
    ipc::SmallVector<std::shared_ptr<WorkState>, 4> over;
    std::vector<Outcome> unwanted;            ///< of ops whose Work was dropped
    std::vector<ipc::SeatId> unwanted_seats;  ///< seats of splits that nobody waits for; this process leaves them
  };

  // ---- seats ----
  /// The daemon may have reported changes of the seat before this process knew that it has it. They count, too.
  void seat_taken(ipc::SeatId seat, SeatState state);
  /// Returns true if this process has not left the seat: then the daemon must hear of it.
  [[nodiscard]] bool seat_dropped(ipc::SeatId seat);
  void group_changed(const ipc::GroupChanged& change);
  /// All seats agreed on a new epoch.
  void reformed(ipc::SeatId seat, const ipc::Done& done);
  /// Returns false if this process has left the seat before.
  [[nodiscard]] bool leave(ipc::SeatId seat);
  /// A dropped seat looks like one that this process has left.
  [[nodiscard]] const SeatState& seat(ipc::SeatId seat) const;
  /// Returns 1 for the first subgroup of these ranks, 2 for the second, and so on. 0 if this process has left the seat.
  [[nodiscard]] std::uint32_t next_subgroup(ipc::SeatId seat, const std::string& ranks);
  /// This process got no seat in that subgroup. It asks for the same one next: the others may have theirs.
  void subgroup_failed(ipc::SeatId seat, const std::string& ranks, std::uint32_t number);

  // ---- ops ----
  enum class Place : std::uint8_t {
    taken,
    full,  ///< too many ops are in flight
    left,  ///< this process has left the group
    lost   ///< the daemon is gone: nothing can start any more
  };
  struct Taken {
    Place place = Place::taken;
    std::uint32_t epoch = 0;
  };
  /// The op begins to be in flight. If it has a seat, it takes its place among the seat's ops.
  [[nodiscard]] Taken start(const std::shared_ptr<WorkState>& work, bool matched_by_order, std::uint32_t in_flight_max);
  /// Whether start() would find room, that is, not return `full`.
  [[nodiscard]] bool has_room(ipc::SeatId seat, std::uint32_t in_flight_max) const;
  /// A call without an input also takes its place, but is not in flight. Returns the epoch, or nothing if the seat was
  /// left.
  [[nodiscard]] std::optional<std::uint32_t> forfeit(ipc::SeatId seat, bool matched_by_order);
  /// The op could not be sent. Its place in the order stays taken.
  void not_sent(ipc::WorkId work);
  /// The daemon says that an op is over.
  void over(ipc::WorkId work, Result<Outcome>&& outcome, ipc::Done&& done, Aftermath& aftermath);
  /// The daemon is gone: all ops in flight are over with this error.
  void lost(const Error& error, Aftermath& aftermath);
  [[nodiscard]] std::size_t in_flight() const { return works_.size(); }

  // ---- calling back ----
  /// Returns false if the work is over already: the callback will not be called. Otherwise keeps the work until it was
  /// called.
  [[nodiscard]] bool call_back(const std::shared_ptr<WorkState>& work, Callback& callback);
  [[nodiscard]] bool has_callbacks() const { return !due_.empty(); }
  [[nodiscard]] Callbacks take_callbacks() { return std::exchange(due_, {}); }

 private:
  /// An op that the daemon works on. Its Work may be gone: then the op's results are given back.
  struct InFlight {
    std::weak_ptr<WorkState> work;
    std::shared_ptr<WorkState> kept;  ///< set while somebody wants to be called back
    ipc::SeatId seat;
  };
  void finish(InFlight&& op, Result<Outcome>&& outcome, ipc::Done&& done, Aftermath& aftermath);
  [[nodiscard]] SeatState* find(ipc::SeatId seat);

  boost::unordered_flat_map<ipc::WorkId, InFlight, std::hash<ipc::WorkId>> works_;
  std::unordered_map<ipc::SeatId, SeatState> seats_;
  std::unordered_map<ipc::SeatId, ipc::GroupChanged> early_changes_;  ///< of seats whose Joined has not come yet
  Callbacks due_;
  bool lost_ = false;
};

}  // namespace muster::detail
