// A few objects in segments that are much larger than these, into which nobody writes any more: the client is dead or
// has handed them over. They are copied out of there, and the segments end.
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

  /// After every event: there may be more to gather.
  void notice(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const {
    return parts_.segments.has_sparse() ? at_ : std::nullopt;
  }
  /// Makes a copy where that may take long.
  using Run = std::function<void(std::function<void()> copy)>;
  /// If it is time: calls `run`, and wants finish() when the copy is made.
  void begin(TimePoint now, const Run& run);
  void finish(TimePoint now);
  /// From here on nothing is begun.
  void stop() { stopped_ = true; }

 private:
  [[nodiscard]] std::vector<Move> moves_of_one_turn();
  [[nodiscard]] std::function<void()> copy_of(const std::vector<Move>& moves) const;

  Parts parts_;
  std::vector<Move> moving_;     ///< being copied
  std::optional<TimePoint> at_;  ///< when to look at sparse segments next, if there are any
  Duration pause_{};             ///< after a turn in which nothing could be moved
  std::uint64_t seen_sparse_changes_ = 0;
  bool stopped_ = false;
};

}  // namespace musterd
