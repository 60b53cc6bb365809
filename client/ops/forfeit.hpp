// What happens to a call that a rank makes without an input: the input could not be stored, or an argument was wrong.
#pragma once

#include <cstdint>
#include <memory>

#include <muster/ipc/records.hpp>
#include <muster/result.hpp>

namespace muster::detail {

struct Seat;

/// Takes the call's place in the order of ops and fails the op on every rank with this reason. So this rank's next call
/// does not meet the others' present one. `call` names kind, root, tag and key. Never waits.
void forfeit(const std::shared_ptr<Seat>& seat, ipc::Contribute call, const Error& why);

/// How many calls of this thread have taken their place, with or without an input. Tells a thread whether its call has,
/// whatever other threads do on the same seat.
[[nodiscard]] std::uint64_t calls_of_thread();

}  // namespace muster::detail
