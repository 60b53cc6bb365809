// What contributions of groups and combines have in common: the objects that they give, and what they are charged with.
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

/// The objects as inputs of an op, which hold them. Fails if the client does not hold one, or if they are too many.
[[nodiscard]] muster::Result<Inputs> find_inputs(const Store& store, const Client& client,
                                                 std::span<const ObjectId> objects);
/// A slot for one more pending op. `heap`: what this one takes of it beyond what the smallest does. stopping: no op
/// begins any more.
[[nodiscard]] muster::Result<Charge> charge_op(Ledger& ledger, const Client& client, std::uint64_t heap, bool stopping);
/// No deadline is further away than a day.
[[nodiscard]] Duration bounded(std::int64_t timeout_ns);

}  // namespace musterd
