// The messages of failed ops. They are in one place, so that every seat and every path says the same in the same form.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <muster/result.hpp>

#include "base/time.hpp"
#include "collective/contribution.hpp"

namespace musterd {

/// " 'key'", or empty. Long keys are cut, as every message about an op has its key and is kept.
[[nodiscard]] std::string quoted_key(const std::string& key);
/// See Op::name. `sequence`: of a call that is matched by order.
[[nodiscard]] std::string op_name(const Contribution& contribution, std::uint64_t sequence);
/// "rank 3", "ranks 0, 1", "ranks 0-7, 12". The ranks must be in rising order.
[[nodiscard]] std::string ranks_text(std::span<const int> ranks);

/// What became of a rank that is gone.
struct Loss {
  std::string how;      ///< "died", "left"
  std::string process;  ///< "pid 4711 on host"; empty: unknown

  [[nodiscard]] static Loss by_leaving(std::string process) { return {"left", std::move(process)}; }
  /// It gave its seat up itself.
  [[nodiscard]] bool has_left() const { return how == "left"; }
};
using Losses = std::map<int, Loss>;

/// Who had a seat, and when it lost it.
struct FormerHolder {
  Loss loss;
  Duration ago{};
};

/// What is known of a rank that an op waited for in vain.
struct Whereabouts {
  std::string process;   ///< as in Loss; empty: no process has the seat
  std::string waits_in;  ///< another op of the group, which it has come to
  bool stopped = false;
  std::string lacks_memory = {};  ///< why it waits for memory of the store; empty if it does not
  /// If no process has the seat: who had it last, perhaps in an earlier group.
  std::optional<FormerHolder> former = {};
};

/// The op waited for these ranks when they were lost.
[[nodiscard]] muster::Error lost_while_awaited(const std::string& op_name, const Losses& losses);
/// The op was called after these ranks were lost, and can't go on without them.
[[nodiscard]] muster::Error lost_before_called(const std::string& op_name, const Losses& losses);
/// The group goes on without lost ranks, but the op needs this one in person: its root, sender or receiver.
[[nodiscard]] muster::Error needed_one_lost(const std::string& op_name, const Losses& lost);
/// The op needs these ranks in person, but they are not members of the epoch.
[[nodiscard]] muster::Error not_members(const std::string& op_name, std::span<const int> ranks);
/// The deadline passed and nobody took the seats of these ranks, which are among the losses.
[[nodiscard]] muster::Error not_replaced(const std::string& op_name, std::span<const int> vacant, const Losses& losses);
/// The deadline passed; `present` are the ranks that came, `known` what is known of some that did not.
[[nodiscard]] muster::Error deadline_passed(const std::string& op_name, std::span<const int> missing,
                                            std::span<const int> present, Duration waited,
                                            const std::map<int, Whereabouts>& known);
/// One end of a send and its recv.
struct PairCall {
  bool sends = false;
  int caller = 0;
  int peer = 0;
  std::int64_t tag = 0;
  std::string quoted_key;  ///< " 'key'", or empty
};
/// "recv from rank 1 with tag 0"
[[nodiscard]] std::string call_text(const PairCall& call);
/// The deadline passed of a send without its recv, or the other way round; `known` as above.
[[nodiscard]] muster::Error peer_did_not_come(const PairCall& called, Duration waited,
                                              const std::map<int, Whereabouts>& known);
/// The rank called the op but has no input for it.
[[nodiscard]] muster::Error no_input(const std::string& op_name, int rank, const muster::Error& cause);
[[nodiscard]] muster::Error too_many_in_flight(const std::string& op_name, int rank, std::size_t in_flight_max);
/// The ranks are so many ops behind the others that the oldest op is given up.
[[nodiscard]] muster::Error too_far_behind(const std::string& op_name, std::span<const int> missing,
                                           std::size_t behind);
/// The op failed so long ago that no more than the code of its outcome is known.
[[nodiscard]] muster::Error outcome_forgotten(const std::string& op_name, int rank, std::size_t history_max,
                                              muster::Code code);

}  // namespace musterd
