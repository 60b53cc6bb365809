// The functions that add each file's part to the module.
#pragma once

#include "module.hpp"

namespace muster::python {

void bind_vocabulary(nb::module_& module);
void bind_arguments(nb::module_& module);
void bind_connection(nb::module_& module);
void bind_ref(nb::module_& module);
void bind_deposits(nb::module_& module);
void bind_writable(nb::module_& module);
void bind_gpu_call(nb::module_& module);
void bind_device_array(nb::module_& module);
void bind_work(nb::module_& module);
void bind_group(nb::module_& module);
void bind_probes(nb::module_& module);

}  // namespace muster::python
