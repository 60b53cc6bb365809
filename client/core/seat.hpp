// This process's place in a group, as the daemon last told it.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <muster/group.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/options.hpp>

namespace muster::detail {

class Connection;

struct Seat {
  std::shared_ptr<Connection> connection;
  std::string name;
  int rank = 0;
  int world_size = 1;
  OnLoss on_loss = OnLoss::fail;
  bool open = false;
  std::chrono::nanoseconds timeout{};
  ipc::SeatId id;

  mutable std::mutex mutex;  ///< guards what follows
  std::uint32_t epoch = 0;
  std::uint64_t position = 0;
  std::vector<int> live;
  std::vector<OwedOp> owes;
  bool left = false;
  std::uint32_t in_flight = 0;
  std::uint64_t calls = 0;                         ///< that have taken their place among the group's ops
  std::map<std::string, std::uint32_t> subgroups;  ///< how many were made of the same ranks

  ~Seat();
};

}  // namespace muster::detail
