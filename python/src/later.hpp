// Python objects that end on threads which can't take the GIL, as they may hold locks for which its holder waits.
#pragma once

#include <memory>

#include "module.hpp"
#include "objects.hpp"

namespace muster::python {

/// Keeps the object. Where the last pointer goes, the object does not end; it ends soon on a thread that has the GIL.
[[nodiscard]] std::shared_ptr<const void> kept_for_others(nb::object object);
/// Hears what the daemon has said of arrays that were left in place, and ends what is to end. Needs the GIL.
void let_go_of_what_is_over(const ConnectionPtr& connection);

}  // namespace muster::python
