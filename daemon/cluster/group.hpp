// A group: its seats, who holds them, and which epoch they belong to. It decides who is a member; the collective layer
// decides about ops. Pure: joins, losses and reforms go in, answers come out.
#pragma once

#include <cstdint>
#include <limits>
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
    /// Bytes of arrays in outcomes that are remembered by key; 0: nothing is remembered.
    std::uint64_t history_bytes = 0;
    bool made = false;  ///< a split named it, not a process: such names are a space of their own
  };

  explicit Group(Settings settings);

  /// Numbers of epochs have 32 bits, and newcomers count with the next one.
  static constexpr std::uint32_t epoch_max = std::numeric_limits<std::uint32_t>::max() - 1;

  enum class Joined : std::uint8_t {
    member,       ///< takes part in the running epoch from the epoch's start
    replacement,  ///< takes over a lost seat where it stands (policy wait)
    newcomer,     ///< a member of the next epoch; waits for a reform, or for the last of the old members to go
  };
  /// Who holds the rank's seat, in this epoch or for the next.
  [[nodiscard]] std::optional<Seat> holder(int rank) const;
  /// Takes a seat. Invalid if settings differ from the group's, or if the rank is out of range or taken.
  [[nodiscard]] muster::Result<Joined> join(const Settings& settings, Seat seat);

  enum class Lost : std::uint8_t {
    member,    ///< a member of the running epoch: its ops must be told
    newcomer,  ///< a member of the next epoch: nobody waits for it
    last,      ///< no member is left: the epoch is over; begin_epoch() if there are newcomers, else the group ends
  };
  /// The holder of the seat died or left.
  Lost lose(SeatId seat);

  /// Who takes part in the next epoch. After a reform these are the live members and the newcomers. Once no old member
  /// is left, every rank takes part, as in a new group.
  [[nodiscard]] std::vector<int> next_members() const;
  /// Starts the next epoch. `number` must be larger than the running epoch's.
  void begin_epoch(std::vector<int> next_members, std::uint32_t number);

  [[nodiscard]] const Settings& settings() const { return settings_; }
  [[nodiscard]] std::uint32_t epoch() const { return epoch_; }
  /// Whether the epoch of that number is over. Newcomers don't know the number of their first epoch before it begins.
  /// They use the number after that of the epoch in which they came.
  [[nodiscard]] bool is_over(std::uint32_t epoch) const { return epoch <= last_epoch_; }
  [[nodiscard]] const std::vector<int>& members() const { return members_; }  ///< who takes part in this epoch; sorted
  [[nodiscard]] bool is_member(int rank) const;
  [[nodiscard]] const std::map<int, Seat>& seats() const { return seats_; }  ///< of the running epoch
  [[nodiscard]] const std::map<int, Seat>& newcomers() const { return newcomers_; }
  [[nodiscard]] std::vector<int> live() const;  ///< members that are not lost, joined or still awaited
  [[nodiscard]] std::vector<int> lost() const { return {lost_.begin(), lost_.end()}; }
  [[nodiscard]] bool is_newcomer(SeatId seat) const;
  [[nodiscard]] bool has(SeatId seat) const;
  [[nodiscard]] bool empty() const { return seats_.empty() && newcomers_.empty(); }

 private:
  [[nodiscard]] muster::Result<void> check_settings(const Settings& settings, int rank) const;

  Settings settings_;
  std::uint32_t epoch_ = 1;
  std::uint32_t last_epoch_ = 0;  ///< the number of the epoch before
  std::vector<int> members_;
  std::map<int, Seat> seats_;
  std::set<int> lost_;
  std::map<int, Seat> newcomers_;
};

}  // namespace musterd
