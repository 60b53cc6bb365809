// What the files of the extension module share: NumPy's C API, error translation, dtypes.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#define NPY_TARGET_VERSION NPY_1_22_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL muster_array_api
#ifndef MUSTER_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include <memory>
#include <optional>

#include <muster/muster.hpp>

#include "core/connection.hpp"

namespace muster::python {

namespace nb = nanobind;
using detail::Connection;
using ConnectionPtr = std::shared_ptr<Connection>;

/// Raises the Python exception for an error's code (muster.errors), or the exception that a signal handler raised
/// meanwhile.
[[noreturn]] void raise(const Error& error);

template <class T>
T value_or_raise(Result<T> result) {
  if (!result) raise(result.error());
  return std::move(*result);
}
inline void value_or_raise(const Result<void>& result) {
  if (!result) raise(result.error());
}

/// The dtype of a NumPy descriptor in native byte order; nothing if the store does not have it.
[[nodiscard]] std::optional<DType> dtype_of(PyArray_Descr* descr);
/// The same for a descriptor in any byte order.
[[nodiscard]] std::optional<DType> dtype_in_any_order(PyArray_Descr* descr);
/// The hint where a dtype is none of the store's.
inline constexpr const char* storable_dtypes =
    "use bool, (u)int8 to 64, float16, bfloat16, float32, float64, complex64 or complex128";
[[nodiscard]] std::optional<DType> dtype_named(std::string_view name);
/// A new reference to NumPy's descriptor; Invalid for bfloat16 without ml_dtypes.
[[nodiscard]] PyArray_Descr* descr_of(DType dtype);

/// str(object).
[[nodiscard]] std::string text_of(nb::handle object);

// Each of these converts the argument `name`. Raises Invalid with the name and the value if it is of another kind.
/// A timeout of one wait: seconds from 0 on, or None for none. More than a day counts as a day.
[[nodiscard]] Timeout timeout_from(nb::handle seconds);
/// A timeout of an op, a group or a deposit: seconds up to a day, or None for none.
[[nodiscard]] Timeout deadline_from(nb::handle seconds);
/// Of a group's ops that name none: more than 0, at most a day.
[[nodiscard]] std::chrono::nanoseconds deadline_of_all_ops_from(nb::handle value);
[[nodiscard]] double seconds_from(nb::handle value, const char* name, double seconds_max);
/// An int, or any object with an __index__ (NumPy's integers).
[[nodiscard]] int int_from(nb::handle value, const char* name);
[[nodiscard]] std::int64_t int64_from(nb::handle value, const char* name);
[[nodiscard]] std::string string_from(nb::handle value, const char* name);
/// "cpu", "cuda:0" and so on; the argument's name is `device`.
[[nodiscard]] Device device_from(nb::handle value);

}  // namespace muster::python
