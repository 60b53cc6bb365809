#include "gpu/control/device_memory.hpp"

#include <fmt/format.h>

namespace musterd::gpu {

using muster::Code;
using muster::Error;
using muster::Result;

Result<bool> DeviceMemory::when_made(std::function<void(Result<void>)> then) {
  if (allocation_->lost) return *allocation_->lost;
  if (allocation_->is_made()) return true;
  allocation_->waiting.push_back(std::move(then));
  return false;
}

Result<void> DeviceMemory::seal_hard() {
  return Error(Code::invalid, fmt::format("{} is memory of a GPU, which can't be sealed hard", label(id_)),
               "leave hard away, or use memory of the host");
}

}  // namespace musterd::gpu
