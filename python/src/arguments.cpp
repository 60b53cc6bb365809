// Checks arguments of callers. An error names the argument and its value.
#include <nanobind/stl/optional.h>

#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/device_text.hpp>
#include <muster/ipc/time_limits.hpp>

#include "bindings.hpp"

namespace muster::python {

namespace {

[[noreturn]] void refuse(const char* name, nb::handle value, const char* hint) {
  PyErr_Clear();
  raise(Error(Code::invalid, fmt::format("{}={} is not valid", name, nb::cast<std::string>(nb::repr(value))), hint));
}

}  // namespace

namespace {

constexpr double timeout_s_max = std::chrono::duration<double>(ipc::timeout_max).count();

std::chrono::nanoseconds nanoseconds_of(double seconds) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
}

}  // namespace

Timeout timeout_from(nb::handle seconds) {
  if (seconds.is_none()) return std::nullopt;
  const double given = seconds_from(seconds, "timeout", std::numeric_limits<double>::infinity());
  return nanoseconds_of(std::min(given, timeout_s_max));
}

Timeout deadline_from(nb::handle seconds) {
  if (seconds.is_none()) return std::nullopt;
  return nanoseconds_of(seconds_from(seconds, "timeout", timeout_s_max));
}

std::chrono::nanoseconds deadline_of_all_ops_from(nb::handle value) {
  const double seconds = PyFloat_AsDouble(value.ptr());
  if (!PyErr_Occurred() && seconds > 0 && seconds <= timeout_s_max)
    return std::max(nanoseconds_of(seconds), std::chrono::nanoseconds(1));
  const std::string hint = fmt::format("give more than 0 seconds, and at most {}, a day", std::llround(timeout_s_max));
  refuse("timeout", value, hint.c_str());
}

double seconds_from(nb::handle value, const char* name, double seconds_max) {
  const double seconds = PyFloat_AsDouble(value.ptr());
  if (!PyErr_Occurred() && seconds >= 0 && seconds <= seconds_max) return seconds;
  const std::string hint = std::isinf(seconds_max) ? "give 0 or more seconds"
                                                   : fmt::format("give 0 to {} seconds", std::llround(seconds_max));
  refuse(name, value, hint.c_str());
}

std::int64_t int64_from(nb::handle value, const char* name) {
  const nb::object index = nb::steal(PyNumber_Index(value.ptr()));
  if (!index.is_valid()) refuse(name, value, "give an integer");
  int overflow = 0;
  const std::int64_t number = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow) refuse(name, value, "give an integer of 64 bits");
  return number;
}

int int_from(nb::handle value, const char* name) {
  const std::int64_t number = int64_from(value, name);
  if (!std::in_range<int>(number)) refuse(name, value, "give an integer of 32 bits");
  return static_cast<int>(number);
}

std::string string_from(nb::handle value, const char* name) {
  Py_ssize_t bytes = 0;
  const char* text = PyUnicode_Check(value.ptr()) ? PyUnicode_AsUTF8AndSize(value.ptr(), &bytes) : nullptr;
  if (!text) refuse(name, value, "give a str");
  return {text, static_cast<std::size_t>(bytes)};
}

Device device_from(nb::handle value) {
  auto known = ipc::parse_device(string_from(value, "device"));
  if (!known) raise(known.error());
  return *known;
}

void bind_arguments(nb::module_& module) {
  module.def(
      "seconds",
      [](nb::handle timeout) -> std::optional<double> {
        const auto bound = timeout_from(timeout);
        if (!bound) return std::nullopt;
        return std::chrono::duration<double>(*bound).count();
      },
      nb::arg("timeout").none());
  module.def("integer", &int_from, nb::arg("value").none(), nb::arg("name"));
  module.def(
      "check_deadline", [](nb::handle timeout) { static_cast<void>(deadline_from(timeout)); },
      nb::arg("timeout").none());
}

}  // namespace muster::python
