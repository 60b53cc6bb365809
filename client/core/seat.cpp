#include "protocol/seat.hpp"

#include <atomic>

#include <fmt/format.h>

#include "connection.hpp"
#include "requests.hpp"
#include "protocol/work_state.hpp"

namespace muster::detail {

namespace {

std::atomic<bool> keeps_seats = false;

}  // namespace

void process_ends() { keeps_seats = true; }

Seat::~Seat() {
  if (!connection || keeps_seats) return;
  const bool is_seated = connection->locked([&](Protocol& protocol) { return protocol.works.seat_dropped(id); });
  // This may run anywhere, even while completions are read, so it does not wait for the answer.
  if (is_seated) tell_left(*connection, id);
}

std::string WorkState::what() const {
  return seat ? fmt::format("{} in group '{}'", ipc::name(kind), seat->name)
              : fmt::format("{} over refs", ipc::name(kind));
}

}  // namespace muster::detail
