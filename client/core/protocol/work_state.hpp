// The state behind a Work. It is pending, and then gets an outcome or an error, once.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <muster/ipc/records.hpp>
#include <muster/result.hpp>
#include <muster/work.hpp>

namespace muster::detail {

class Connection;
struct Seat;

struct WorkState {
  std::shared_ptr<Connection> connection;
  std::shared_ptr<Seat> seat;  ///< null for ops over refs
  ipc::WorkId id;
  ipc::Kind kind = ipc::Kind::barrier;
  std::chrono::steady_clock::time_point deadline;

  // Only Works writes the members below.
  std::atomic<bool> over{false};                 ///< set last
  std::optional<Result<Outcome>> outcome;        ///< written before `over`
  ipc::Done done;                                ///< for split and reform
  std::vector<std::function<void()>> callbacks;  ///< called when the work is over

  /// "allreduce in group 'dp'", for messages.
  [[nodiscard]] std::string what() const;
};

}  // namespace muster::detail
