#include "device_array.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "arrays.hpp"
#include "base/call_deadline.hpp"
#include "bindings.hpp"
#include "core/requests.hpp"
#include "device/cuda.hpp"
#include "gil.hpp"
#include "ops/objects.hpp"

namespace muster::python {

using detail::Cuda;

DeviceArray::~DeviceArray() {
  // The last owner of memory on a GPU waits for work there.
  unlocked([&] {
    lease.reset();
    opening.reset();
  });
}

std::uint64_t DeviceArray::count() const {
  return std::accumulate(shape.begin(), shape.end(), std::uint64_t{1},
                         [](std::uint64_t all, std::int64_t size) { return all * static_cast<std::uint64_t>(size); });
}

DeviceArray* device_array(nb::handle object) {
  // DeviceArray.__new__() makes one that is empty.
  return nb::isinstance<DeviceArray>(object) && nb::inst_ready(object) ? nb::inst_ptr<DeviceArray>(object) : nullptr;
}

Result<void> finish_work_on(const DeviceArray& array) {
  if (array.bytes() == 0) return {};
  auto cuda = Cuda::get();
  if (!cuda) return cuda.error();
  return (*cuda)->finish(array.data);
}

Result<void> copy_on_gpu(void* to, const void* from, std::uint64_t bytes) {
  if (bytes == 0) return {};
  auto cuda = Cuda::get();
  if (!cuda) return cuda.error();
  return (*cuda)->copy(to, from, bytes);
}

namespace {

/// What CUDA calls the GPU here on which the store has this memory.
Result<int> ordinal_here(const detail::Welcome::Memory& memory) {
  auto cuda = Cuda::get();
  if (!cuda) return cuda.error();
  return (*cuda)->gpu_with(memory.gpu, memory.device);
}

Result<Device> device_with(const Connection& connection, int ordinal) {
  for (const auto& memory : connection.welcome().devices) {
    if (memory.device.is_host()) continue;
    const auto here = ordinal_here(memory);
    if (here && *here == ordinal) return memory.device;
  }
  return Error(Code::invalid,
               fmt::format("the daemon has no memory on the GPU that CUDA knows as {} in this process", ordinal),
               "see `muster status` for the GPUs that it has");
}

/// Where an array without elements says that it is: it has no address by which the driver would know.
std::optional<int> told_ordinal(const DeviceArray& array) {
  if (!nb::hasattr(array.other, "__dlpack_device__")) return std::nullopt;
  const auto [kind, ordinal] = nb::cast<std::pair<int, int>>(array.other.attr("__dlpack_device__")());
  return kind == nb::device::cuda::value ? std::optional(ordinal) : std::nullopt;
}

}  // namespace

Result<int> ordinal_on(const Connection& connection, Device device) {
  const auto& devices = connection.welcome().devices;
  const auto found = std::ranges::find(devices, device, &detail::Welcome::Memory::device);
  if (found == devices.end())
    return Error(Code::invalid, "the daemon has no memory on " + name(device), "see `muster status`");
  return ordinal_here(*found);
}

Device device_of(const ConnectionPtr& connection, const DeviceArray& array) {
  if (!array.other) return array.device;
  if (array.bytes() == 0) {
    const auto told = told_ordinal(array);
    return told ? call_unlocked([&] { return device_with(*connection, *told); }) : array.device;
  }
  return call_unlocked([&]() -> Result<Device> {
    auto cuda = Cuda::get();
    if (!cuda) return cuda.error();
    const auto ordinal = (*cuda)->ordinal_of(array.data);
    if (!ordinal) return Error(Code::invalid, "the array's memory was freed", "keep it until the call is over");
    return device_with(*connection, *ordinal);
  });
}

bool is_on(const Connection& connection, const DeviceArray& array, Device device) {
  return unlocked([&] {
    auto cuda = Cuda::get();
    if (!cuda) return false;
    const auto ordinal = (*cuda)->ordinal_of(array.data);
    const auto wanted = ordinal_on(connection, device);
    return ordinal && wanted && *ordinal == *wanted;
  });
}

nb::object device_view(const std::shared_ptr<const detail::Opening>& opening, const ArrayView& view) {
  auto array = std::make_unique<DeviceArray>();
  array->data = const_cast<void*>(view.data());
  array->dtype = view.dtype();
  array->shape = view.shape();
  array->device = view.device();
  array->opening = opening;
  return nb::cast(std::move(array));
}

nb::object empty_on(const ConnectionPtr& connection, DType dtype, Shape shape, Device device, Timeout timeout) {
  auto array = std::make_unique<DeviceArray>();
  const auto buffer =
      call_unlocked([&] { return Client(connection).allocate_raw(dtype, std::move(shape), device, timeout); });
  array->data = buffer.data();
  array->dtype = dtype;
  array->shape = buffer.shape();
  array->device = device;
  array->lease = buffer.lease();
  return nb::cast(std::move(array));
}

namespace {

/// The number by which CUDA knows the GPU here.
int ordinal_of(const DeviceArray& array) {
  const auto found = unlocked([&]() -> std::optional<int> {
    auto cuda = Cuda::get();
    return cuda ? (*cuda)->ordinal_of(array.data) : std::nullopt;
  });
  return found.value_or(array.device.index);  // an array without bytes lies nowhere
}

nb::dlpack::dtype dlpack_type_of(DType dtype) {
  using Code = nb::dlpack::dtype_code;
  const auto code = [&] {
    switch (dtype) {
      case DType::bool_: return Code::Bool;
      case DType::int8:
      case DType::int16:
      case DType::int32:
      case DType::int64: return Code::Int;
      case DType::uint8:
      case DType::uint16:
      case DType::uint32:
      case DType::uint64: return Code::UInt;
      case DType::bfloat16: return Code::Bfloat;
      case DType::complex64:
      case DType::complex128: return Code::Complex;
      case DType::float16:
      case DType::float32:
      case DType::float64: return Code::Float;
    }
    return Code::Float;
  }();
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(8 * size_of(dtype)), 1};
}

/// Whoever takes the array uses streams that nobody else knows. So what was written into it is to be there.
void finish_before_export(const DeviceArray& array) {
  if (array.writable()) call_unlocked([&] { return finish_work_on(array); });
}

/// Nothing is left to wait for, so whatever stream the consumer names may use it.
nb::object to_dlpack(nb::handle self, const nb::kwargs& options) {
  const auto& array = *nb::inst_ptr<DeviceArray>(self);
  finish_before_export(array);
  std::vector<std::size_t> shape(array.shape.begin(), array.shape.end());
  nb::object exporter;
  if (array.writable())
    exporter =
        nb::cast(nb::ndarray<nb::array_api>(array.data, shape.size(), shape.data(), self, nullptr,
                                            dlpack_type_of(array.dtype), nb::device::cuda::value, ordinal_of(array)));
  else
    exporter = nb::cast(nb::ndarray<nb::array_api, nb::ro>(array.data, shape.size(), shape.data(), self, nullptr,
                                                           dlpack_type_of(array.dtype), nb::device::cuda::value,
                                                           ordinal_of(array)));
  return exporter.attr("__dlpack__")(**options);
}

/// Version 3. No stream is named, as nothing is left to wait for.
nb::dict interface_of(const DeviceArray& array) {
  if (array.dtype == DType::bfloat16) {
    PyErr_SetString(PyExc_AttributeError, "__cuda_array_interface__ has no bfloat16: use DLPack");
    throw nb::python_error();
  }
  finish_before_export(array);
  nb::dict found;
  found["version"] = 3;
  found["shape"] = nb::tuple(nb::cast(array.shape));
  found["typestr"] = nb::steal(reinterpret_cast<PyObject*>(descr_of(array.dtype))).attr("str");
  found["data"] = nb::make_tuple(array.bytes() ? reinterpret_cast<std::uintptr_t>(array.data) : 0, !array.writable());
  found["strides"] = nb::none();
  return found;
}

/// A NumPy array of this array's shape and dtype in C order.
nb::object dense_like(const DeviceArray& array, nb::handle values) {
  nb::object dense =
      nb::steal(PyArray_FromAny(values.ptr(), descr_of(array.dtype), 0, 0, NPY_ARRAY_C_CONTIGUOUS, nullptr));
  if (!dense.is_valid()) throw nb::python_error();
  if (shape_of(as_array(dense)) != array.shape)
    raise(Error(Code::invalid,
                fmt::format("an array of shape {} can't be copied into one of shape {}",
                            text_of(nb::object(dense.attr("shape"))), text_of(nb::tuple(nb::cast(array.shape)))),
                "give arrays of one shape"));
  return dense;
}

void copy_from(DeviceArray& array, nb::handle values) {
  if (!array.writable())
    raise(Error(Code::invalid, "the array is sealed, so it can't be written", "write before it is sealed"));
  if (const auto* from = device_array(values)) {
    if (from->dtype != array.dtype || from->shape != array.shape)
      raise(Error(Code::invalid, "arrays of different shapes or dtypes can't be copied into each other"));
    call_unlocked([&]() -> Result<void> {
      if (auto done = finish_work_on(*from); !done) return done;
      if (auto done = finish_work_on(array); !done) return done;
      return copy_on_gpu(array.data, from->data, array.bytes());
    });
    return;
  }
  const nb::object dense = dense_like(array, values);
  call_unlocked([&]() -> Result<void> {
    if (auto done = finish_work_on(array); !done) return done;
    return copy_on_gpu(array.data, PyArray_DATA(as_array(dense)), array.bytes());
  });
}

nb::object to_host(const DeviceArray& array) {
  nb::object made =
      nb::steal(PyArray_NewFromDescr(&PyArray_Type, descr_of(array.dtype), static_cast<int>(array.shape.size()),
                                     array.shape.data(), nullptr, nullptr, 0, nullptr));
  if (!made.is_valid()) throw nb::python_error();
  call_unlocked([&]() -> Result<void> {
    if (auto done = finish_work_on(array); !done) return done;
    return copy_on_gpu(PyArray_DATA(as_array(made)), array.data, array.bytes());
  });
  return made;
}

/// Another library's dense array, so that it can be put into the store. `owner` keeps its memory.
nb::object other_array(std::uintptr_t address, const std::vector<std::int64_t>& shape, const std::string& dtype,
                       nb::object owner) {
  const auto known = dtype_named(dtype);
  if (!known) raise(Error(Code::invalid, fmt::format("arrays of dtype {} can't be stored", dtype), storable_dtypes));
  value_or_raise(ipc::element_count(shape, *known));
  auto array = std::make_unique<DeviceArray>();
  array->data = reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr): so Python has it
  array->dtype = *known;
  array->shape = shape;
  array->other = std::move(owner);
  if (array->bytes() > 0)
    call_unlocked([&]() -> Result<void> {
      auto cuda = Cuda::get();
      if (!cuda) return cuda.error();
      const auto there = (*cuda)->bytes_from(array->data);
      if (!there)
        return Error(Code::invalid, "the array is said to be on a GPU, and its memory is not",
                     "was it freed, or does another process have it?");
      // It may lie in several allocations that were mapped side by side.
      const auto* const last = static_cast<const std::byte*>(array->data) + array->bytes() - 1;
      if (array->bytes() <= *there || (*cuda)->ordinal_of(last)) return {};
      return Error(
          Code::invalid,
          fmt::format("the array is said to have {} bytes, and its memory ends after {}", array->bytes(), *there),
          "its shape is not that of its memory");
    });
  return nb::cast(std::move(array));
}

}  // namespace

namespace {

constexpr const char* device_array_text = R"(An array in memory of a GPU, dense and in C order.

Muster computes nothing there. Libraries take it without a copy, by DLPack (``torch.from_dlpack(array)``) or
``__cuda_array_interface__`` (``cupy.asarray(array)``). Both keep the array alive while the library uses its memory.
``muster.empty(device="cuda:0")`` makes writable ones; those that ``Ref.get()`` returns are read-only.)";

constexpr const char* copy_from_text =
    R"(Copies values of the same shape into a writable array, and returns when that is done.

Args:
    values: a DeviceArray of the same dtype, or anything that NumPy makes an array of this dtype.

Raises:
    Invalid: the array is sealed, or the shapes differ.
    TypeError, ValueError: NumPy makes no array of this dtype of the values.)";

}  // namespace

void bind_device_array(nb::module_& module) {
  nb::class_<DeviceArray>(module, "DeviceArray", nb::is_final(), device_array_text)
      .def_prop_ro("shape", [](const DeviceArray& self) { return nb::tuple(nb::cast(self.shape)); })
      .def_prop_ro("dtype",
                   [](const DeviceArray& self) { return nb::steal(reinterpret_cast<PyObject*>(descr_of(self.dtype))); })
      .def_prop_ro("ndim", [](const DeviceArray& self) { return self.shape.size(); })
      .def_prop_ro("size", &DeviceArray::count)
      .def_prop_ro("nbytes", &DeviceArray::bytes)
      .def_prop_ro("device", [](const DeviceArray& self) { return name(self.device); })
      .def_prop_ro("writable", &DeviceArray::writable)
      .def_prop_ro("__cuda_array_interface__", &interface_of)
      .def("__dlpack__", &to_dlpack)
      .def("__dlpack_device__",
           [](const DeviceArray& self) { return nb::make_tuple(nb::device::cuda::value, ordinal_of(self)); })
      .def("copy_from", &copy_from, nb::arg("values").none(), copy_from_text)
      .def("to_host", &to_host, "Returns a NumPy array with the same values, which is a copy.")
      .def("__array__",
           [](const DeviceArray& self, const nb::args&, const nb::kwargs&) {
             raise(Error(Code::invalid, fmt::format("the array is on {}, and NumPy can't read it", name(self.device)),
                         "copy it first: array.to_host()"));
           })
      .def("__repr__", [](const DeviceArray& self) {
        return fmt::format("<muster.DeviceArray {} {} on {}>", text_of(nb::tuple(nb::cast(self.shape))),
                           name(self.dtype), name(self.device));
      });
  module.def("other_array", &other_array, nb::arg("address"), nb::arg("shape"), nb::arg("dtype"), nb::arg("owner"));
}

}  // namespace muster::python
