// What contributions to groups' ops and combines have in common: their objects and their charges.
#pragma once

#include <cstdint>
#include <span>

#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

#include "base/time.hpp"
#include "collective/messages.hpp"
#include "memory/ledger.hpp"
#include "session/clients.hpp"
#include "store/store.hpp"

namespace musterd {

/// Returns the objects as inputs of an op; the inputs keep them. Fails if the client does not hold one of them, or if
/// they are too many.
[[nodiscard]] muster::Result<Inputs> find_inputs(const Store& store, const Client& client,
                                                 std::span<const ObjectId> objects);
/// Charges for one more pending op. `heap`: how much more of the heap it takes than the smallest one. `stopping`: no op
/// begins any more.
[[nodiscard]] muster::Result<Charge> charge_op(Ledger& ledger, const Client& client, std::uint64_t heap, bool stopping);
/// Limits a timeout: no deadline is further away than a day.
[[nodiscard]] Duration bounded(std::int64_t timeout_ns);

}  // namespace musterd
