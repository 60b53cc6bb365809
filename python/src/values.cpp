// Gets Python values out of the store.
#include <cstring>
#include <functional>
#include <optional>

#include <fmt/format.h>

#include "arrays.hpp"
#include "base/call_deadline.hpp"
#include "device_array.hpp"
#include "gil.hpp"
#include "objects.hpp"
#include "ops/holds.hpp"
#include "structure.hpp"

namespace muster::python {

namespace {

/// Smaller arrays are copied for torch and DLPack: that is cheaper than a mapping.
constexpr std::uint64_t copy_bytes_max = 16 << 10;
constexpr std::uint64_t page_bytes = 4096;
using OpeningPtr = std::shared_ptr<const detail::Opening>;

nb::object opening_capsule(OpeningPtr opening) {
  auto* kept = new OpeningPtr(std::move(opening));
  nb::object capsule = nb::steal(PyCapsule_New(kept, opening_name, [](PyObject* object) {
    auto* const kept = static_cast<OpeningPtr*>(PyCapsule_GetPointer(object, opening_name));
    // Work on GPUs may have to be waited for.
    (*kept)->on_gpus.empty() ? delete kept : unlocked([&] { delete kept; });
  }));
  if (!capsule.is_valid()) throw nb::python_error();
  return capsule;
}

nb::object copied_array(const void* data, PyArray_Descr* descr, std::span<const std::int64_t> shape,
                        std::uint64_t bytes) {
  nb::object array = nb::steal(PyArray_NewFromDescr(&PyArray_Type, descr, static_cast<int>(shape.size()), shape.data(),
                                                    nullptr, nullptr, 0, nullptr));
  if (!array.is_valid()) throw nb::python_error();
  if (bytes > 0) std::memcpy(PyArray_DATA(as_array(array)), data, bytes);
  return array;
}

/// Both mappings must stay. The object's mapping keeps the object's bytes from being used again, as the daemon knows
/// only that one; the private mapping has the array.
struct Both {
  OpeningPtr opening;  // ends last, because it tells the daemon
  ipc::Mapping mapping;
};

nb::object private_view(const OpeningPtr& opening, const ipc::Leaf& leaf, const void* data, PyArray_Descr* descr) {
  const auto& hold = opening->hold;
  const auto shape = hold->manifest.shape(leaf);
  if (leaf.bytes() <= copy_bytes_max) return copied_array(data, descr, shape, leaf.bytes());
  const std::uint64_t first_page = leaf.offset / page_bytes * page_bytes;
  auto mapping = unlocked([&] {
    return hold->connection->segments().map_private(leaf.segment, first_page, leaf.offset + leaf.bytes() - first_page);
  });
  // The object may have moved out of the segment meanwhile. Then the segment is gone.
  if (!mapping && mapping.error().code() == Code::invalid) return copied_array(data, descr, shape, leaf.bytes());
  if (!mapping) {
    Py_DECREF(descr);
    raise(mapping.error());
  }
  auto* both = new Both{opening, std::move(*mapping)};
  void* begin = both->mapping.data() + (leaf.offset - first_page);
  nb::object capsule = nb::steal(PyCapsule_New(both, "muster.private", [](PyObject* object) {
    delete static_cast<Both*>(PyCapsule_GetPointer(object, "muster.private"));
  }));
  if (!capsule.is_valid()) throw nb::python_error();
  return array_over(begin, descr, shape, std::move(capsule), true);
}

/// Another user's value must not make this process import a library.
LeafKind kind_to_make(LeafKind given, ipc::Makers makers) {
  if (makers == ipc::Makers::one_user || given == LeafKind::numpy || given == LeafKind::matrix) return given;
  const char* library = given == LeafKind::torch ? "torch" : given == LeafKind::cupy ? "cupy" : "jax.numpy";
  const bool imported = PyDict_GetItemString(PyImport_GetModuleDict(), library) != nullptr;
  return imported ? given : LeafKind::numpy;
}

/// torch has its own bfloat16, so its bits travel as int16.
PyArray_Descr* descr_for(LeafKind kind, DType dtype) {
  return descr_of(kind == LeafKind::torch && dtype == DType::bfloat16 ? DType::int16 : dtype);
}

}  // namespace

Result<Opened> open(const Ref& ref, Timeout timeout) {
  std::optional<detail::CallDeadline> deadline;
  if (timeout) deadline.emplace(*timeout);
  return detail::open(ref.hold());
}

Opened open_or_raise(const Ref& ref) {
  return call_unlocked([&] { return open(ref); });
}

nb::object value_of(const Opened& opened) {
  const auto& manifest = opened.hold()->manifest;
  if (manifest.structure.empty() && manifest.guise.empty() && manifest.leaves.size() == 1) {
    const auto& view = opened.views.front();
    if (!view.device().is_host()) return device_view(opened.opening, view);
    return array_over(view.data(), descr_of(view.dtype()), view.shape(), opening_capsule(opened.opening), false);
  }
  nb::object keeper;
  const auto make_leaf = [&](std::size_t index, LeafKind given) {
    const auto& leaf = manifest.leaves[index];
    const auto& view = opened.views[index];
    const LeafKind kind = kind_to_make(given, manifest.makers);
    if (!leaf.device.is_host()) {
      const auto from_gpu = nb::module_::import_("muster._trees").attr("from_gpu");
      return nb::object(from_gpu(device_view(opened.opening, view), std::string(name(kind))));
    }
    PyArray_Descr* descr = descr_for(kind, leaf.dtype);
    if (kind == LeafKind::numpy || kind == LeafKind::matrix || kind == LeafKind::cupy) {
      if (!keeper.is_valid()) keeper = opening_capsule(opened.opening);
      nb::object array = array_over(view.data(), descr, view.shape(), keeper, false);
      const bool is_matrix = kind == LeafKind::matrix && view.shape().size() == 2;
      return is_matrix ? nb::object(array.attr("view")(nb::module_::import_("numpy").attr("matrix"))) : array;
    }
    nb::object array = private_view(opened.opening, leaf, view.data(), descr);
    const auto from_numpy = nb::module_::import_("muster._trees").attr("from_numpy");
    return from_numpy(array, std::string(name(kind)), std::string(name(leaf.dtype)));
  };
  return put_together(manifest.structure, manifest.guise, manifest.leaves.size(), manifest.makers, std::ref(make_leaf));
}

nb::object private_array(const Ref& ref, std::size_t index) {
  const Opened opened = open_or_raise(ref);
  if (index >= opened.views.size()) raise(Error(Code::invalid, fmt::format("the object has no leaf {}", index)));
  const auto& leaf = opened.hold()->manifest.leaves[index];
  if (!leaf.device.is_host())
    raise(Error(Code::invalid, fmt::format("the array is on {}, and the host can't read it", name(leaf.device)),
                "move it first: ref.to('cpu')"));
  return private_view(opened.opening, leaf, opened.views[index].data(), descr_of(leaf.dtype));
}

}  // namespace muster::python
