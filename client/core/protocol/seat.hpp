// A seat that this process has in a group.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include <muster/ipc/ids.hpp>
#include <muster/options.hpp>

namespace muster::detail {

class Connection;

/// What does not change while the process has the seat. SeatState has the rest, as the daemon last reported it.
struct Seat {
  std::shared_ptr<Connection> connection;
  std::string name;
  int rank = 0;
  int world_size = 1;
  OnLoss on_loss = OnLoss::fail;
  bool open = false;
  std::uint64_t history_bytes = 0;
  std::chrono::nanoseconds timeout{};
  ipc::SeatId id;

  Seat() = default;
  Seat(const Seat&) = delete;
  Seat& operator=(const Seat&) = delete;
  /// Gives the seat up, unless the process ends (base/process_end.hpp).
  ~Seat();
};

}  // namespace muster::detail
