// Taking a seat in a group.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include <muster/group.hpp>
#include <muster/options.hpp>
#include <muster/result.hpp>

namespace muster::detail {

class Connection;

[[nodiscard]] Result<Group> join(const std::shared_ptr<Connection>& connection, const std::string& name, int rank,
                                 int world_size, OnLoss on_loss, bool open, std::chrono::nanoseconds timeout);

}  // namespace muster::detail
