#include "protocol/seat.hpp"

#include <fmt/format.h>

#include "base/process_end.hpp"
#include "connection.hpp"
#include "requests.hpp"
#include "protocol/work_state.hpp"

namespace muster::detail {

Seat::~Seat() {
  if (!connection || process_is_ending()) return;
  const bool is_seated = connection->locked([&](Protocol& protocol) { return protocol.works.seat_dropped(id); });
  // This may run anywhere, even while completions are read, so it does not wait for the answer.
  if (is_seated) tell_left(*connection, id);
}

std::string WorkState::what() const {
  return seat ? fmt::format("{} in group '{}'", ipc::name(kind), seat->name)
              : fmt::format("{} over refs", ipc::name(kind));
}

}  // namespace muster::detail
