#include "interrupted.hpp"

#include <atomic>

namespace muster::detail {

namespace {

std::atomic<bool (*)()> interrupted_callback{nullptr};

}  // namespace

bool interrupted() {
  const auto callback = interrupted_callback.load();
  return callback && callback();
}

void set_interrupted(bool (*callback)()) { interrupted_callback = callback; }

}  // namespace muster::detail
