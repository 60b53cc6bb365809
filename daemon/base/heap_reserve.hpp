// Memory kept for when the heap can't grow. operator new then uses it up and goes on, so that the daemon can finish
// what it has begun. It refuses new requests until the reserve is whole again.
#pragma once

#include <cstddef>

#include <muster/result.hpp>

namespace musterd {

/// From now on a failed allocation spends the reserve before it throws. Called once. The reserve costs hardly any
/// memory until it is spent.
void keep_heap_reserve(std::size_t bytes);
/// True while less than half of the reserve is there; tries to restore it. Costs one load while it is whole.
[[nodiscard]] bool heap_is_short();
/// The error of requests that the daemon's own memory does not suffice for. It is made at the start, as there would be
/// no memory for it later.
[[nodiscard]] const muster::Error& no_heap();

}  // namespace musterd
