// Ops in flight and the seats that they belong to. Pure: each event of this process or of the daemon is a function that
// says what follows. What it gives back ends without the lock, as the end of a work or a ref is an event itself.
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

/// What the daemon last told of a seat, and what this process has done there.
struct SeatState {
  std::uint32_t epoch = 0;
  std::uint64_t position = 0;  ///< among the group's ops that are matched by order
  std::vector<int> live;
  std::vector<OwedOp> owes;
  bool left = false;
  std::uint32_t in_flight = 0;
  std::uint64_t calls = 0;                         ///< that have taken their place among the group's ops
  std::map<std::string, std::uint32_t> subgroups;  ///< how many were made of the same ranks
};

class Works {
 public:
  using Callback = std::function<void()>;
  using Callbacks = std::vector<Callback>;
  /// What nobody needs any more.
  struct Aftermath {
    ipc::SmallVector<std::shared_ptr<WorkState>, 4> over;
    std::vector<Outcome> unwanted;            ///< of ops whose Work was dropped
    std::vector<ipc::SeatId> unwanted_seats;  ///< of splits that nobody waits for: to be left
  };

  // ---- seats ----
  /// What the daemon told of the seat before this process knew that it has it counts, too.
  void seat_taken(ipc::SeatId seat, SeatState state);
  /// True if it has not been left: the daemon is to hear of it.
  [[nodiscard]] bool seat_dropped(ipc::SeatId seat);
  void group_changed(const ipc::GroupChanged& change);
  /// All seats agreed on a new epoch.
  void reformed(ipc::SeatId seat, const ipc::Done& done);
  /// False if it was left before.
  [[nodiscard]] bool leave(ipc::SeatId seat);
  /// Of a seat that was dropped: as if it had been left.
  [[nodiscard]] const SeatState& seat(ipc::SeatId seat) const;
  /// The how-manieth subgroup of these ranks this one is. 0 if the seat was left.
  [[nodiscard]] std::uint32_t next_subgroup(ipc::SeatId seat, const std::string& ranks);

  // ---- ops ----
  enum class Place : std::uint8_t {
    taken,
    full,  ///< as many are in flight as may be
    left,  ///< the group
    lost   ///< the daemon: nothing can start any more
  };
  struct Taken {
    Place place = Place::taken;
    std::uint32_t epoch = 0;
  };
  /// An op takes its place among those of its seat, if it has one, and is in flight.
  [[nodiscard]] Taken start(const std::shared_ptr<WorkState>& work, bool matched_by_order, std::uint32_t in_flight_max);
  /// Whether start() would not say `full`.
  [[nodiscard]] bool has_room(ipc::SeatId seat, std::uint32_t in_flight_max) const;
  /// A call without an input takes its place, too, and is not in flight. Gives the epoch; nothing if the seat was left.
  [[nodiscard]] std::optional<std::uint32_t> forfeit(ipc::SeatId seat, bool matched_by_order);
  /// It could not be sent. Its place in the order stays taken.
  void not_sent(ipc::WorkId work);
  /// The daemon says that an op is over.
  void over(ipc::WorkId work, Result<Outcome>&& outcome, ipc::Done&& done, Aftermath& aftermath);
  /// The daemon is gone: all that is in flight is over with this error.
  void lost(const Error& error, Aftermath& aftermath);
  [[nodiscard]] std::size_t in_flight() const { return works_.size(); }

  // ---- calling back ----
  /// False: the work is over already, and nobody will be called. Else it lives until somebody was.
  [[nodiscard]] bool call_back(const std::shared_ptr<WorkState>& work, Callback& callback);
  [[nodiscard]] bool has_callbacks() const { return !due_.empty(); }
  [[nodiscard]] Callbacks take_callbacks() { return std::exchange(due_, {}); }

 private:
  /// An op that the daemon works on. Its Work may be gone: then what it brings is given back.
  struct InFlight {
    std::weak_ptr<WorkState> work;
    std::shared_ptr<WorkState> kept;  ///< while somebody wants to be called back
    ipc::SeatId seat;
  };
  void finish(InFlight&& op, Result<Outcome>&& outcome, ipc::Done&& done, Aftermath& aftermath);
  [[nodiscard]] SeatState* find(ipc::SeatId seat);

  boost::unordered_flat_map<ipc::WorkId, InFlight, std::hash<ipc::WorkId>> works_;
  std::unordered_map<ipc::SeatId, SeatState> seats_;
  std::unordered_map<ipc::SeatId, ipc::GroupChanged> early_changes_;  ///< of seats whose Joined is still on its way
  Callbacks due_;
  bool lost_ = false;
};

}  // namespace muster::detail
