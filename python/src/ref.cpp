// muster.Ref as Python sees it: what this process knows of an object, and objects for the object's parts.
#include <nanobind/stl/vector.h>

#include <limits>

#include <fmt/format.h>

#include <muster/ipc/description.hpp>

#include "bindings.hpp"
#include "device_array.hpp"
#include "gil.hpp"
#include "objects.hpp"
#include "ops/holds.hpp"
#include "ops/objects.hpp"
#include "structure.hpp"

namespace muster::python {

namespace {

/// Asks for a large manifest if it is missing; everything else is here already.
const Ref& described(const PyRef& self) {
  if (const auto& hold = self.ref.hold(); hold && !hold->described)
    call_unlocked([hold] { return detail::usable(hold); });
  return self.ref;
}

std::vector<ipc::Element> elements_of(const ipc::Manifest& manifest) {
  try {
    if (auto elements = ipc::elements_of(manifest.structure, manifest.guise)) return std::move(*elements);
  } catch (const ipc::DamagedStructure&) {
    raise_damaged();
  }
  raise(Error(Code::invalid, "the ref does not hold a list or tuple",
              "give one array, or a list with an element for each rank"));
}

/// The elements of a stored list; each is an object of its own over the same bytes.
std::vector<PyRef> parts_of(const PyRef& whole) {
  const Opened opened = open_or_raise(whole.ref);
  const auto& manifest = opened.hold()->manifest;
  std::vector<PyRef> parts;
  std::size_t at = 0;
  for (auto& child : elements_of(manifest)) {
    ipc::Manifest part;
    for (std::size_t i = 0; i < child.leaves; ++i, ++at) {
      const auto& leaf = manifest.leaves.at(at);
      value_or_raise(part.add(leaf.segment, leaf.offset, leaf.dtype, manifest.shape(leaf), leaf.device));
    }
    part.structure = std::move(child.description.structure);
    part.guise = std::move(child.description.guise);
    parts.push_back({call_unlocked([&] { return detail::derive(Ref(opened.hold()), std::move(part)); }), 0, {}});
  }
  return parts;
}

const char* name(CopyReason reason) {
  switch (reason) {
    case CopyReason::library: return "library";
    case CopyReason::order: return "order";
    case CopyReason::kept: return "kept";
    case CopyReason::stored: return "stored";
    case CopyReason::elsewhere: return "elsewhere";
    case CopyReason::too_large: return "too large";
    case CopyReason::full: return "full";
    case CopyReason::share: return "share";
    case CopyReason::small_part: return "small part";
    case CopyReason::device: return "device";
    case CopyReason::host: return "host";
    case CopyReason::no_handle: return "no handle";
  }
  return "unknown";
}

/// (path, reason, a weak reference or None) for each leaf that was copied.
nb::list copied_leaves(const PyRef& self) {
  nb::list leaves;
  if (!self.copied) return leaves;
  constexpr std::size_t named_max = 1000;
  const auto outline = ipc::outline_of(self.ref.structure(), std::numeric_limits<std::size_t>::max());
  for (const auto& copied : *self.copied) {
    const bool few = self.copied->size() <= named_max;
    const auto path = outline && few ? path_of_leaf(*outline, copied.leaf) : std::nullopt;
    const nb::object array = copied.array.is_valid() ? copied.array : nb::none();
    leaves.append(nb::make_tuple(path.value_or(fmt::format("leaf {}", copied.leaf)), name(copied.reason), array));
  }
  return leaves;
}

}  // namespace

void bind_ref(nb::module_& module) {
  nb::class_<PyRef>(module, "Ref")
      .def_rw("copies", &PyRef::copies)
      .def_prop_ro("copied", &copied_leaves)
      .def_prop_ro("nbytes", [](const PyRef& self) { return described(self).nbytes(); })
      .def_prop_ro("leaves", [](const PyRef& self) { return described(self).leaves(); })
      .def_prop_ro("plain",
                   [](const PyRef& self) {
                     const auto structure = described(self).structure();
                     return structure.empty();
                   })
      .def_prop_ro("structure", [](const PyRef& self) { return readable(described(self).structure()); })
      .def_prop_ro("alive", [](const PyRef& self) { return self.ref.valid(); })
      .def("shape",
           [](const PyRef& self, std::size_t leaf) { return nb::tuple(nb::cast(described(self).shape(leaf))); })
      .def("dtype",
           [](const PyRef& self, std::size_t leaf) {
             return nb::steal(reinterpret_cast<PyObject*>(descr_of(described(self).dtype(leaf))));
           })
      .def("dtype_name",
           [](const PyRef& self, std::size_t leaf) { return std::string(name(described(self).dtype(leaf))); })
      .def("device_array",
           [](const PyRef& self) {
             const Opened opened = open_or_raise(self.ref);
             return device_view(opened.opening, opened.views.front());
           })
      .def("device", [](const PyRef& self, std::size_t leaf) { return name(described(self).device(leaf)); })
      .def(
          "to",
          [](const PyRef& self, nb::handle device, nb::handle timeout) {
            const Device there = device_from(device);
            const Timeout wait = deadline_from(timeout);
            return PyRef{call_unlocked([&, ref = self.ref] { return ref.to(there, wait); }), 0, {}};
          },
          nb::arg("device").none(), nb::arg("timeout").none())
      .def("get", [](const PyRef& self) { return value_of(open_or_raise(self.ref)); })
      .def("private_array", [](const PyRef& self, std::size_t leaf) { return private_array(self.ref, leaf); })
      .def("free", [](PyRef& self) { self.ref.free(); })
      .def("serialize",
           [](const PyRef& self) {
             const auto bytes = call_unlocked([ref = self.ref] { return ref.serialize(); });
             return nb::bytes(bytes.data(), bytes.size());
           })
      .def("serialize_kept",
           [](const PyRef& self) {
             const auto bytes = call_unlocked([ref = self.ref] { return ref.serialize_kept(); });
             return nb::bytes(bytes.data(), bytes.size());
           })
      .def("keep_for",
           [](const PyRef& self, const std::string& token) {
             call_unlocked([&, ref = self.ref] { return ref.keep_for(token); });
           })
      .def("rows",
           [](const PyRef& self, std::int64_t first, std::int64_t rows) {
             return PyRef{call_unlocked([&, ref = self.ref] { return detail::slice(ref, first, rows); }), 0, {}};
           })
      .def("parts", &parts_of);
}

}  // namespace muster::python
