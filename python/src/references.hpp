// Which references an object holds, according to the garbage collector, whatever its class pretends. Nothing here runs
// Python code.
#pragma once

#include "module.hpp"

namespace muster::python {

enum class Visit { go_on, stop };

/// Calls `visitor(held)` for every reference that the object holds, until the visitor stops. Does not work for arrays.
template <class Visitor>
void for_each_held(PyObject* object, Visitor visitor) {
  const auto each = [](PyObject* held, void* context) {
    return (*static_cast<Visitor*>(context))(held) == Visit::stop ? 1 : 0;
  };
  if (const traverseproc traverse = Py_TYPE(object)->tp_traverse) traverse(object, each, &visitor);
}

/// The C type that a Python class is based on; the type itself if it is not a Python class. Null if there is more than
/// Python code between the two.
[[nodiscard]] const PyTypeObject* builtin_base(const PyTypeObject* type);

}  // namespace muster::python
