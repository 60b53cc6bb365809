// What each file adds to the module.
#pragma once

#include "module.hpp"

namespace muster::python {

void bind_objects(nb::module_& module);  ///< Ref, Call, deposits, buffers
void bind_probes(nb::module_& module);   ///< what tests look at values with
void bind_client(nb::module_& module);   ///< Client, Group, Work

}  // namespace muster::python
