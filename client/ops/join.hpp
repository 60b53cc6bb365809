// Taking a seat in a group.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include <muster/group.hpp>
#include <muster/options.hpp>
#include <muster/result.hpp>

namespace muster::detail {

class Connection;

/// What all ranks of a group say alike.
struct GroupSettings {
  int world_size = 1;
  OnLoss on_loss = OnLoss::fail;
  bool open = false;
  std::uint64_t history_bytes = 0;
  std::chrono::nanoseconds timeout{};
};
[[nodiscard]] Result<Group> join(const std::shared_ptr<Connection>& connection, const std::string& name, int rank,
                                 const GroupSettings& settings);

}  // namespace muster::detail
