// Who held the seats that were lost last. This is kept beyond the end of their groups: a group ends with its last
// member, and a rank that comes later waits in a new one. Its Timeout can then say that the missing rank was there, and
// how it ended.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/time.hpp"
#include "cluster/group.hpp"
#include "collective/messages.hpp"

namespace musterd {

class FormerSeats {
 public:
  /// How many lost seats are remembered. The entries are few and small, so nobody is charged for them.
  static constexpr std::size_t kept_max = 128;

  FormerSeats() { entries_.reserve(kept_max); }

  /// Remembers a lost seat, and forgets the oldest. Remembers nothing of open groups, or if the heap has no room.
  void add(const Group::Settings& group, int rank, const Loss& loss, TimePoint now) noexcept;
  /// The process that lost the rank's seat last, in a group of this name.
  [[nodiscard]] std::optional<FormerHolder> find(const Group::Settings& group, int rank, TimePoint now) const;

 private:
  struct Entry {
    std::string group;
    std::uint32_t user = 0;
    int rank = 0;
    Loss loss;
    TimePoint lost_at;
  };
  [[nodiscard]] static bool same(const Entry& entry, const Group::Settings& group, int rank);

  std::vector<Entry> entries_;  ///< a ring once it has kept_max entries
  std::size_t next_ = 0;        ///< the oldest entry of the full ring
};

}  // namespace musterd
