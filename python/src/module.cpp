#define MUSTER_IMPORTS_NUMPY
#include "module.hpp"

#include <array>

#include "base/interrupted.hpp"
#include "bindings.hpp"
#include "signals.hpp"

namespace muster::python {

void raise(const Error& error) {
  // Ctrl-C ended the wait, so the user expects KeyboardInterrupt.
  if (PyErr_Occurred()) throw nb::python_error();
  nb::object type = nb::module_::import_("muster.errors").attr("by_code")(std::string(name(error.code())));
  nb::list ranks;
  for (const int rank : error.ranks()) ranks.append(rank);
  nb::object made = type(error.message(), error.hint(), ranks);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(made.ptr())), made.ptr());
  throw nb::python_error();
}

namespace {

constexpr std::array<int, dtype_count> numpy_numbers{
    NPY_BOOL,   NPY_INT8,    NPY_INT16, NPY_INT32,   NPY_INT64,   NPY_UINT8,     NPY_UINT16,    NPY_UINT32,
    NPY_UINT64, NPY_FLOAT16, -1,        NPY_FLOAT32, NPY_FLOAT64, NPY_COMPLEX64, NPY_COMPLEX128};

/// NumPy's number of ml_dtypes' bfloat16; -1 as long as nobody has imported ml_dtypes.
int bfloat16_number() {
  static int number = -1;
  if (number >= 0) return number;
  nb::object number_now = nb::module_::import_("muster._trees").attr("bfloat16_number")();
  return number = nb::cast<int>(number_now);
}

}  // namespace

std::optional<DType> dtype_of(PyArray_Descr* descr) {
  return PyArray_ISNBO(descr->byteorder) ? dtype_in_any_order(descr) : std::nullopt;
}

std::optional<DType> dtype_in_any_order(PyArray_Descr* descr) {
  for (std::size_t i = 0; i < dtype_count; ++i)
    if (numpy_numbers[i] == descr->type_num) return static_cast<DType>(i);
  // The platform may have two 64-bit integer types.
  if (descr->type_num == NPY_LONGLONG) return DType::int64;
  if (descr->type_num == NPY_ULONGLONG) return DType::uint64;
  if (descr->type_num >= NPY_USERDEF && descr->type_num == bfloat16_number()) return DType::bfloat16;
  return std::nullopt;
}

std::optional<DType> dtype_named(std::string_view name) {
  for (std::size_t each = 0; each < dtype_count; ++each)
    if (muster::name(static_cast<DType>(each)) == name) return static_cast<DType>(each);
  return std::nullopt;
}

PyArray_Descr* descr_of(DType dtype) {
  const int number = dtype == DType::bfloat16 ? bfloat16_number() : numpy_numbers[static_cast<std::size_t>(dtype)];
  if (number < 0) raise(Error(Code::invalid, "NumPy has no bfloat16 without ml_dtypes", "pip install ml_dtypes"));
  PyArray_Descr* descr = PyArray_DescrFromType(number);
  if (!descr) throw nb::python_error();
  return descr;
}

std::string text_of(nb::handle object) {
  nb::object text = nb::steal(PyObject_Str(object.ptr()));
  if (!text.is_valid()) throw nb::python_error();
  return nb::cast<std::string>(text);
}

namespace {

void* import_numpy() {
  import_array1(nullptr);
  return nullptr;
}

}  // namespace

}  // namespace muster::python

NB_MODULE(_muster, module) {
  namespace py = muster::python;
  py::import_numpy();
  if (PyErr_Occurred()) throw nanobind::python_error();
  module.attr("__version__") = MUSTER_VERSION;
  muster::detail::set_interrupted(&py::signal_came);
  nanobind::set_leak_warnings(false);
  py::bind_vocabulary(module);
  py::bind_arguments(module);
  py::bind_connection(module);
  py::bind_ref(module);
  py::bind_deposits(module);
  py::bind_device_array(module);
  py::bind_writable(module);
  py::bind_gpu_call(module);
  py::bind_work(module);
  py::bind_group(module);
  py::bind_probes(module);
}
