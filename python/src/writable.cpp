// muster.empty makes arrays that are written inside the store, and muster.seal makes them objects.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>
#include <fmt/format.h>

#include "arrays.hpp"
#include "base/call_deadline.hpp"
#include "bindings.hpp"
#include "device_array.hpp"
#include "gil.hpp"
#include "names.hpp"
#include "objects.hpp"
#include "core/requests.hpp"
#include "device/cuda.hpp"
#include "ops/objects.hpp"
#include "writable.hpp"

namespace muster::python {

Writable::~Writable() {
  // GPUs may still use what they were given.
  if (device() == Device::pinned()) unlocked([&] { static_cast<void>(detail::Cuda::finish_on(device(), address)); });
  arena.free(address);
}

Writable* writable_under(PyObject* array) {
  if (!PyArray_CheckExact(array)) return nullptr;
  PyObject* base = PyArray_BASE(reinterpret_cast<PyArrayObject*>(array));
  while (base && PyArray_CheckExact(base)) base = PyArray_BASE(reinterpret_cast<PyArrayObject*>(base));
  return base && nb::isinstance<Writable>(base) ? nb::inst_ptr<Writable>(base) : nullptr;
}

void finish_writes(const Writable& memory) {
  if (memory.device() == Device::pinned())
    call_unlocked([&] { return detail::Cuda::finish_on(memory.device(), memory.address); });
}

namespace {

int writable_buffer(PyObject* self, Py_buffer* view, int flags) {
  auto* memory = nb::inst_ptr<Writable>(self);
  return PyBuffer_FillInfo(view, self, memory->address, static_cast<Py_ssize_t>(memory->bytes), memory->sealed ? 1 : 0,
                           flags);
}

PyType_Slot writable_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(writable_buffer)}, {0, nullptr}};

nb::object empty(const ConnectionPtr& connection, const std::vector<std::int64_t>& shape, nb::handle dtype,
                 nb::handle timeout, nb::handle device) {
  PyArray_Descr* descr = nullptr;
  if (!PyArray_DescrConverter(dtype.ptr(), &descr)) throw nb::python_error();
  const auto known = dtype_of(descr);
  if (!known) {
    Py_DECREF(descr);
    raise(Error(Code::invalid, fmt::format("dtype {} can't be stored", text_of(dtype)), storable_dtypes));
  }
  auto count = ipc::element_count(shape, *known);
  if (!count) {
    Py_DECREF(descr);
    raise(count.error());
  }
  const Device there = device_from(device);
  if (!there.is_host()) {
    Py_DECREF(descr);
    return empty_on(connection, *known, shape, there, deadline_from(timeout));
  }
  const std::uint64_t bytes = *count * size_of(*known);
  const auto wait = deadline_from(timeout).value_or(detail::default_wait);
  const detail::CallDeadline deadline(wait);
  auto arena = detail::arena_on(*connection, there);
  auto address = arena ? unlocked([&] { return (*arena)->allocate(bytes, 0, wait); }) : arena.error();
  if (!address) {
    Py_DECREF(descr);
    raise(address.error());
  }
  nb::object owner = nb::cast(std::make_unique<Writable>(connection, **arena, *address, bytes));
  return array_over(*address, descr, shape, std::move(owner), true);
}

/// The memory of `muster.empty` under an array that is no view of another one; null for any other array.
Writable* memory_of(nb::handle array) {
  Writable* const memory = writable_under(array.ptr());
  return memory && !PyArray_CheckExact(PyArray_BASE(reinterpret_cast<PyArrayObject*>(array.ptr()))) ? memory : nullptr;
}

PyRef take_over(const ConnectionPtr& connection, nb::handle array, Writable& memory, DType dtype) {
  auto* numpy = reinterpret_cast<PyArrayObject*>(array.ptr());
  const auto region = memory.arena.find(memory.address);
  ipc::Manifest manifest;
  const auto bytes = static_cast<std::uint64_t>(PyArray_NBYTES(numpy));
  const auto offset =
      region->offset + static_cast<std::uint64_t>(static_cast<std::byte*>(PyArray_DATA(numpy)) - region->address);
  value_or_raise(manifest.add(bytes ? region->segment : ipc::SegmentId{}, bytes ? offset : 0, dtype, shape_of(numpy),
                              region->device));
  // Before any other thread can make a view of the array.
  memory.sealed = true;
  PyArray_CLEARFLAGS(numpy, NPY_ARRAY_WRITEABLE);
  const std::byte* address = region->address;
  auto ref = detail::seal(connection, std::move(manifest), {&address, 1}, 0, &wait_unlocked);
  if (!ref) {
    memory.sealed = false;
    PyArray_ENABLEFLAGS(numpy, NPY_ARRAY_WRITEABLE);
  }
  return {value_or_raise(std::move(ref)), 0, {}};
}

/// Takes it over if only names lead to it: a library that uses its memory holds a reference on it.
PyRef seal_on_gpu(const ConnectionPtr& connection, nb::handle array, DeviceArray& memory, Py_ssize_t callers,
                  Timeout timeout) {
  if (!memory.writable() || memory.lease->connection != connection || !has_only_names(array, callers)) {
    auto made = deposit(connection, array, nullptr, 0, timeout, {});
    memory.sealed = true;
    return made;
  }
  ipc::Manifest manifest;
  const auto& region = memory.lease->region;
  value_or_raise(detail::add_leaf(manifest, region, memory.dtype, memory.shape));
  // Before any other thread can hand the array to a library.
  memory.sealed = true;
  const std::byte* address = region.address;
  auto ref = [&]() -> Result<Ref> {
    if (auto written = unlocked([&] { return finish_work_on(memory); }); !written) return written.error();
    return detail::seal(connection, std::move(manifest), {&address, 1}, 0, &wait_unlocked);
  }();
  if (!ref) memory.sealed = false;
  return {value_or_raise(std::move(ref)), 0, {}};
}

/// `callers` is how many references on the array the call itself holds, whatever expression the caller passed.
PyRef seal_array(const ConnectionPtr& connection, nb::handle array, Py_ssize_t callers, Timeout timeout) {
  auto* numpy = reinterpret_cast<PyArrayObject*>(array.ptr());
  // First, as other threads run meanwhile.
  if (const auto* written = writable_under(array.ptr())) finish_writes(*written);
  // Memory of another connection is from before a restart of the daemon, or belongs to the parent process.
  if (auto* memory = memory_of(array);
      memory && memory->connection == connection && !memory->sealed && PyArray_ISALIGNED(numpy)) {
    const auto dtype = dtype_of(PyArray_DESCR(numpy));
    // Once the array itself is read-only, others can still write through views and buffers, but not through names.
    if (dtype && PyArray_IS_C_CONTIGUOUS(numpy) && Py_REFCNT(PyArray_BASE(numpy)) == 1 &&
        has_only_names(array, callers))
      return take_over(connection, array, *memory, *dtype);
  }
  if (auto* on_gpu = device_array(array)) return seal_on_gpu(connection, array, *on_gpu, callers, timeout);
  const auto* const memory = writable_under(array.ptr());
  const bool stays_pinned = memory && memory->device() == Device::pinned();
  auto made =
      deposit(connection, array, nullptr, 0, timeout, stays_pinned ? std::optional(Device::pinned()) : std::nullopt);
  if (PyArray_Check(array.ptr())) PyArray_CLEARFLAGS(numpy, NPY_ARRAY_WRITEABLE);
  return made;
}

}  // namespace

void bind_writable(nb::module_& module) {
  const nb::class_<Writable> writable(module, "Writable", nb::type_slots(writable_slots));
  module.def("empty", &empty, nb::arg("connection"), nb::arg("shape"), nb::arg("dtype"), nb::arg("timeout").none(),
             nb::arg("device"));
  module.def("is_pinned", [](std::uintptr_t address) {
    return Client::is_pinned(reinterpret_cast<const void*>(address));  // NOLINT(performance-no-int-to-ptr)
  });
  module.def(
      "seal",
      [](const ConnectionPtr& connection, nb::handle array, Py_ssize_t callers, nb::handle timeout) {
        return seal_array(connection, array, callers, deadline_from(timeout));
      },
      nb::arg("connection"), nb::arg("array"), nb::arg("callers"), nb::arg("timeout").none());
}

}  // namespace muster::python
