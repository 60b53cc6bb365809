// A group: its seats, who holds them, and which epoch they belong to. It decides who is a member; the collective
// layer decides about ops. Pure: joins, losses and reforms in; answers out.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>
#include <muster/types.hpp>

#include "base/time.hpp"

namespace musterd {

using muster::ipc::ClientId;
using muster::ipc::SeatId;

struct Seat {
  SeatId id;
  ClientId client;
  int rank = 0;
};

class Group {
 public:
  struct Settings {
    std::string name;
    int world_size = 1;
    muster::OnLoss on_loss = muster::OnLoss::fail;
    Duration timeout{};
    std::uint32_t user = 0;  ///< who made it
    bool open = false;       ///< other users may take seats
    bool made = false;       ///< named by a split, not by a process: such names are a space of their own
  };

  explicit Group(Settings settings);

  enum class Joined : std::uint8_t {
    member,       ///< takes part in the running epoch from its start
    replacement,  ///< takes a lost seat over where it stands (policy wait)
    newcomer,     ///< a member of the next epoch; waits for a reform, or for the last of the old members to go
  };
  /// Who holds the rank's seat, in this epoch or for the next.
  [[nodiscard]] std::optional<Seat> holder(int rank) const;
  /// Takes a seat. Invalid if settings differ from the group's, the rank is out of range or taken.
  [[nodiscard]] muster::Result<Joined> join(const Settings& settings, Seat seat);

  enum class Lost : std::uint8_t {
    member,    ///< of the running epoch: its ops must be told
    newcomer,  ///< of the next epoch: nobody waits for it
    last,      ///< no member is left: the epoch is over; begin_epoch() if there are newcomers, else the group ends
  };
  /// The holder of the seat died or left.
  Lost lose(SeatId seat);

  /// Who takes part in the next epoch: after a reform the live members and the newcomers; after the end of all old
  /// members everybody does, as in a new group.
  [[nodiscard]] std::vector<int> next_members() const;
  /// Starts it. `number`: larger than the running one's.
  void begin_epoch(std::vector<int> next_members, std::uint32_t number);

  [[nodiscard]] const Settings& settings() const { return settings_; }
  [[nodiscard]] std::uint32_t epoch() const { return epoch_; }
  /// Whether an epoch of that number is over. Newcomers don't know the number of their first one before it begins, and
  /// count it as the next one after the epoch in which they came.
  [[nodiscard]] bool is_over(std::uint32_t epoch) const { return epoch <= last_epoch_; }
  [[nodiscard]] const std::vector<int>& members() const { return members_; }  ///< who takes part in this epoch; sorted
  [[nodiscard]] bool is_member(int rank) const;
  [[nodiscard]] const std::map<int, Seat>& seats() const { return seats_; }  ///< of the running epoch
  [[nodiscard]] const std::map<int, Seat>& newcomers() const { return newcomers_; }
  [[nodiscard]] std::vector<int> live() const;  ///< members that are not lost, joined or still awaited
  [[nodiscard]] std::vector<int> lost() const { return {lost_.begin(), lost_.end()}; }
  [[nodiscard]] bool is_newcomer(SeatId seat) const;
  [[nodiscard]] bool empty() const { return seats_.empty() && newcomers_.empty(); }

 private:
  [[nodiscard]] muster::Result<void> check_settings(const Settings& settings, int rank) const;

  Settings settings_;
  std::uint32_t epoch_ = 1;
  std::uint32_t last_epoch_ = 0;  ///< the one before
  std::vector<int> members_;
  std::map<int, Seat> seats_;
  std::set<int> lost_;
  std::map<int, Seat> newcomers_;
};

}  // namespace musterd
