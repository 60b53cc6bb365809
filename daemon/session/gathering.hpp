// Frees segments that are much larger than the few objects in them, and that nobody writes into any more, as the client
// is dead or has handed them over. The objects are copied to other segments, and these segments end.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/time.hpp"
#include "memory/result_pool.hpp"
#include "memory/segment_table.hpp"
#include "session/clients.hpp"
#include "store/store.hpp"

namespace musterd {

class Gathering {
 public:
  struct Parts {
    SegmentTable& segments;
    ResultPool& results;
    Store& store;
    Clients& clients;
  };
  explicit Gathering(Parts parts) : parts_(parts) {}

  /// Called after every event, as there may be more to gather.
  void notice(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const {
    return parts_.segments.has_sparse() ? at_ : std::nullopt;
  }
  /// Runs the copy elsewhere, as it may take long.
  using Run = std::function<void(std::function<void()> copy)>;
  /// Begins to move objects if it is time. It calls `run`; finish() must be called when the copy is made.
  void begin(TimePoint now, const Run& run);
  void finish(TimePoint now);
  /// From now on no move begins.
  void stop() { stopped_ = true; }

 private:
  [[nodiscard]] std::vector<Move> moves_of_one_turn();
  [[nodiscard]] std::function<void()> copy_of(const std::vector<Move>& moves) const;

  Parts parts_;
  std::vector<Move> moving_;     ///< what is being copied
  std::optional<TimePoint> at_;  ///< when to look at sparse segments next, if there are any
  Duration pause_{};             ///< how long to wait after a turn in which nothing could be moved
  std::uint64_t seen_sparse_changes_ = 0;
  bool stopped_ = false;
};

}  // namespace musterd
