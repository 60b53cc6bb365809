// Small things about NumPy arrays.
#pragma once

#include <span>
#include <type_traits>
#include <utility>

#include "module.hpp"

namespace muster::python {

inline PyArrayObject* as_array(const nb::object& object) { return reinterpret_cast<PyArrayObject*>(object.ptr()); }

inline Shape shape_of(PyArrayObject* array) {
  const npy_intp* dims = PyArray_DIMS(array);
  return {dims, dims + PyArray_NDIM(array)};
}

/// An array over memory that `owner` keeps.
inline nb::object array_over(const void* data, PyArray_Descr* descr, std::span<const std::int64_t> shape,
                             nb::object owner, bool writable) {
  static_assert(std::is_same_v<npy_intp, std::int64_t>);
  nb::object array =
      nb::steal(PyArray_NewFromDescr(&PyArray_Type, descr, static_cast<int>(shape.size()), shape.data(), nullptr,
                                     const_cast<void*>(data), writable ? NPY_ARRAY_WRITEABLE : 0, nullptr));
  if (!array.is_valid()) throw nb::python_error();
  if (PyArray_SetBaseObject(as_array(array), owner.release().ptr()) != 0) throw nb::python_error();
  return array;
}

}  // namespace muster::python
