#include "references.hpp"

namespace muster::python {

namespace {

/// How instances of Python classes are deallocated, unless a C type does it differently.
destructor dealloc_of_classes() {
  const nb::object sample = nb::steal(PyObject_CallFunction(reinterpret_cast<PyObject*>(&PyType_Type), "s(){}", "_"));
  if (!sample.is_valid()) throw nb::python_error();
  return reinterpret_cast<PyTypeObject*>(sample.ptr())->tp_dealloc;
}

}  // namespace

const PyTypeObject* builtin_base(const PyTypeObject* type) {
  static const destructor dealloc = dealloc_of_classes();
  for (; type->tp_flags & Py_TPFLAGS_HEAPTYPE; type = type->tp_base)
    if (type->tp_dealloc != dealloc) return nullptr;
  return type;
}

}  // namespace muster::python
