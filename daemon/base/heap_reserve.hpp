// Memory kept for the day when the heap can't grow. operator new then takes it back and goes on, so that what the
// daemon has begun for somebody it can finish; what is new is refused until the reserve is whole again.
#pragma once

#include <cstddef>

#include <muster/result.hpp>

namespace musterd {

/// From now on a failed allocation spends the reserve before it throws. Called once; `bytes` cost hardly any memory
/// until they are spent.
void keep_heap_reserve(std::size_t bytes);
/// True while less than half of the reserve is there; tries to restore it. Costs one load while it is whole.
[[nodiscard]] bool heap_is_short();
/// What those are told for whom the daemon's own memory does not suffice. Made before: then there would be no room for
/// it.
[[nodiscard]] const muster::Error& no_heap();

}  // namespace musterd
