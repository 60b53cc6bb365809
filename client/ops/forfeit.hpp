// What becomes of a call that a rank makes without an input: its input could not be stored, or an argument was wrong.
#pragma once

#include <cstdint>
#include <memory>

#include <muster/ipc/records.hpp>
#include <muster/result.hpp>

namespace muster::detail {

struct Seat;

/// Takes the place of the call in the order of ops and fails the op on every rank with this reason, so that this rank's
/// next call does not meet the others' present one. `call` names kind, root, tag and key. Never waits.
void forfeit(const std::shared_ptr<Seat>& seat, ipc::Contribute call, const Error& why);

/// How many calls of this seat have taken their place, with an input or without.
[[nodiscard]] std::uint64_t calls(const Seat& seat);

}  // namespace muster::detail
