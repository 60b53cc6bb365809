// The names that a connection chooses by itself: of ops, objects, and capabilities of objects.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include <muster/ipc/ids.hpp>

#include "base/ordered_mutex.hpp"

namespace muster::detail {

class Names {
 public:
  /// `mutex` is that of the connection's state.
  Names(ipc::ClientId client, OrderedMutex& mutex) : client_(client), mutex_(mutex) {}

  [[nodiscard]] ipc::WorkId next_work() { return {++last_work_}; }
  [[nodiscard]] ipc::ObjectId next_object() { return ipc::make_object_id(client_, ++last_object_); }
  [[nodiscard]] ipc::Capability random_capability();

 private:
  ipc::ClientId client_;
  std::atomic<std::uint64_t> last_work_{0};
  std::atomic<std::uint32_t> last_object_{0};
  OrderedMutex& mutex_;
  std::vector<std::uint64_t> random_;  ///< guarded by mutex_
};

}  // namespace muster::detail
