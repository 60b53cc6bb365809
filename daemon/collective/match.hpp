// What brings contributions to one op: the order of their ranks' calls, or a match.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>

#include "collective/contribution.hpp"

namespace musterd {

/// Whether a rank's n-th such call meets every other rank's n-th. All other calls have a match.
[[nodiscard]] bool is_by_order(const Contribution& contribution);

/// What the contributions to an op have in common if they aren't matched by order. Ops of the same match follow each
/// other.
struct Match {
  enum class Of : std::uint8_t { key, pair, reform };
  Of of = Of::key;
  std::string key;
  int source = 0;        ///< of a pair
  int destination = 0;   ///< of a pair
  std::int64_t tag = 0;  ///< of a pair

  /// How many contributions an op of this match may have.
  [[nodiscard]] std::size_t contributions_max(int world_size) const {
    return of == Of::pair ? 2 : static_cast<std::size_t>(world_size);
  }
  /// Which of them this one is, from 0 on: by rank. In a pair the sender comes before the receiver, even if they are
  /// one rank.
  [[nodiscard]] std::size_t index_of(const Contribution& contribution) const;

  friend bool operator<(const Match& a, const Match& b) {
    return std::tie(a.of, a.key, a.source, a.destination, a.tag) <
           std::tie(b.of, b.key, b.source, b.destination, b.tag);
  }
};
/// Of a contribution that isn't matched by order.
[[nodiscard]] Match match_of(const Contribution& contribution);
/// Reforms meet reforms.
[[nodiscard]] Match match_of_reforms();

}  // namespace musterd
