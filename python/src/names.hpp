// Tells names of an array from anything else that may hold it.
#pragma once

#include "module.hpp"

namespace muster::python {

/// Whether all references on an argument of the running Python function are names for it, apart from `callers`
/// references that the call itself holds. Names are the variables of that function's caller, and items and attributes
/// of plain containers that they lead to. A name gives access to the array only, but a view or a buffer gives direct
/// access to its memory.
[[nodiscard]] bool has_only_names(nb::handle argument, Py_ssize_t callers);

}  // namespace muster::python
