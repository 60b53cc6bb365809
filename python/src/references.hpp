// What an object holds references on, as the garbage collector sees it: the facts, whatever its class pretends.
// Nothing here runs Python code.
#pragma once

#include "module.hpp"

namespace muster::python {

enum class Visit { go_on, stop };

/// Calls `visitor(held)` for every reference that the object holds, until it has seen enough. Arrays don't tell.
template <class Visitor>
void for_each_held(PyObject* object, Visitor visitor) {
  const auto each = [](PyObject* held, void* context) {
    return (*static_cast<Visitor*>(context))(held) == Visit::stop ? 1 : 0;
  };
  if (const traverseproc traverse = Py_TYPE(object)->tp_traverse) traverse(object, each, &visitor);
}

/// The type written in C that a class is made of; the type itself if it is no class of Python code. Null if there is
/// more than Python code between the two.
[[nodiscard]] const PyTypeObject* builtin_base(const PyTypeObject* type);

}  // namespace muster::python
