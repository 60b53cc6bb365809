// Names for an array, told from what else may hold it.
#pragma once

#include "module.hpp"

namespace muster::python {

/// Whether all references on an argument of the running Python function are names for it. `callers`: those that the
/// call itself holds. Names are the variables of that function's caller, and items and attributes of plain
/// containers that they lead to. They give the array, but none of its memory behind its back, as a view or a buffer
/// does.
[[nodiscard]] bool has_only_names(nb::handle argument, Py_ssize_t callers);

}  // namespace muster::python
