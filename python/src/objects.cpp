#include "objects.hpp"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <functional>
#include <optional>
#include <unordered_map>

#include "bindings.hpp"
#include "call.hpp"
#include "base/call_deadline.hpp"
#include "gil.hpp"
#include "ops/holds.hpp"
#include "ops/objects.hpp"
#include "names.hpp"
#include "owners.hpp"
#include "tree.hpp"

namespace muster::python {

namespace {

/// Smaller arrays are copied for torch and DLPack: cheaper than a mapping.
constexpr std::uint64_t copy_bytes_max = 16 << 10;
constexpr std::uint64_t page_bytes = 4096;
/// From here on a copy takes longer than to give the GIL up and to get it back.
constexpr std::size_t long_copy_bytes = 1 << 20;

PyArrayObject* as_array(const nb::object& object) { return reinterpret_cast<PyArrayObject*>(object.ptr()); }

Shape shape_of(PyArrayObject* array) {
  const npy_intp* dims = PyArray_DIMS(array);
  return {dims, dims + PyArray_NDIM(array)};
}

/// An array over memory that `owner` keeps.
nb::object array_over(const void* data, PyArray_Descr* descr, std::span<const std::int64_t> shape, nb::object owner,
                      bool writable) {
  static_assert(std::is_same_v<npy_intp, std::int64_t>);
  nb::object array =
      nb::steal(PyArray_NewFromDescr(&PyArray_Type, descr, static_cast<int>(shape.size()), shape.data(), nullptr,
                                     const_cast<void*>(data), writable ? NPY_ARRAY_WRITEABLE : 0, nullptr));
  if (!array.is_valid()) throw nb::python_error();
  if (PyArray_SetBaseObject(as_array(array), owner.release().ptr()) != 0) throw nb::python_error();
  return array;
}

bool is_native(PyArrayObject* array) { return PyArray_ISNBO(PyArray_DESCR(array)->byteorder); }

/// Copies an array of any strides and byte order into dense memory in the machine's.
void copy_dense(PyArrayObject* from, void* to) {
  if (PyArray_IS_C_CONTIGUOUS(from) && is_native(from)) {
    const auto bytes = static_cast<std::size_t>(PyArray_NBYTES(from));
    const auto copy = [&, data = PyArray_DATA(from)] { return std::memcpy(to, data, bytes); };
    bytes < long_copy_bytes ? copy() : unlocked(copy);
    return;
  }
  PyArray_Descr* descr = PyArray_DescrNewByteorder(PyArray_DESCR(from), NPY_NATIVE);
  if (!descr) throw nb::python_error();
  nb::object dense = nb::steal(PyArray_NewFromDescr(&PyArray_Type, descr, PyArray_NDIM(from), PyArray_DIMS(from),
                                                    nullptr, to, NPY_ARRAY_WRITEABLE, nullptr));
  if (!dense.is_valid() || PyArray_CopyInto(as_array(dense), from) != 0) throw nb::python_error();
}

/// Most seals need not wait, and to give the GIL up and get it back may take long where many want it.
Result<void> wait_unlocked(const std::function<Result<void>()>& wait) { return unlocked(wait); }

class Depositor {
 public:
  Depositor(const ConnectionPtr& connection, Timeout timeout)
      : connection_(connection), timeout_(timeout.value_or(detail::default_wait)) {}

  /// `sole`: whether each leaf has no owner outside of the tree, and was made in `call`.
  void add(std::span<const FoundLeaf> leaves, const std::vector<bool>& sole, const Call* call) {
    std::vector<std::optional<Region>> regions;
    regions.reserve(leaves.size());
    for (std::size_t i = 0; i < leaves.size(); ++i)
      regions.push_back(sole[i] ? region_of(as_array(leaves[i].array), call->id()) : std::nullopt);
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      // A scalar has no memory that could have been shared.
      if (add(leaves[i], regions[i]) || leaves[i].is_scalar) continue;
      ++copies_;
      if (call) note(i, leaves[i], reason_for(leaves[i], sole[i], regions[i].has_value(), *call));
    }
  }

  PyRef seal(ipc::Description description) {
    manifest_.structure = std::move(description.structure);
    manifest_.guise = std::move(description.guise);
    std::vector<const std::byte*> addresses(taken_.begin(), taken_.end());
    addresses.insert(addresses.end(), made_.begin(), made_.end());
    const detail::CallDeadline deadline(timeout_);
    auto ref = detail::seal(connection_, std::move(manifest_), addresses, copied_bytes_, &wait_unlocked);
    forget_made();
    PyRef made{value_or_raise(std::move(ref)), copies_, {}};
    if (!copied_.empty()) made.copied = std::make_shared<const std::vector<Copied>>(std::move(copied_));
    return made;
  }

  ~Depositor() { forget_made(); }

 private:
  using Region = detail::ArenaRegion;

  /// The region of this call that the array lies in, if it could be taken over as it is.
  std::optional<Region> region_of(PyArrayObject* array, std::uint64_t call) {
    const auto bytes = static_cast<std::uint64_t>(PyArray_NBYTES(array));
    if (bytes == 0 || !PyArray_IS_C_CONTIGUOUS(array) || !PyArray_ISALIGNED(array)) return std::nullopt;
    const auto* data = static_cast<const std::byte*>(PyArray_DATA(array));
    auto region = connection_->arena().find(data);
    if (!region || region->call != call || data + bytes > region->address + region->bytes) return std::nullopt;
    used_bytes_[region->address] += bytes;
    return region;
  }

  /// A small part of a large region would keep all of it.
  bool is_most_of(const Region& region) const {
    constexpr std::uint64_t waste_max = 64 << 10;
    return region.bytes <= 2 * used_bytes_.at(region.address) + waste_max;
  }

  static bool has_numpys_memory(PyArrayObject* array) {
    PyObject* base = PyArray_BASE(array);
    while (base && PyArray_Check(base)) base = PyArray_BASE(reinterpret_cast<PyArrayObject*>(base));
    return !base;
  }

  static CopyReason reason_for(const FoundLeaf& leaf, bool sole, bool in_store, const Call& call) {
    auto* array = as_array(leaf.array);
    if (!is_native(array)) return CopyReason::order;
    if (!leaf.as_given) return CopyReason::library;
    if (!sole) return has_numpys_memory(array) ? CopyReason::kept : CopyReason::elsewhere;
    if (in_store) return CopyReason::small_part;
    if (!PyArray_IS_C_CONTIGUOUS(array) || !PyArray_ISALIGNED(array)) return CopyReason::order;
    switch (call.why_not_stored(PyArray_DATA(array))) {
      case Call::NotStored::too_large: return CopyReason::too_large;
      case Call::NotStored::full: return CopyReason::full;
      case Call::NotStored::elsewhere: break;
    }
    return CopyReason::elsewhere;
  }

  void note(std::size_t index, const FoundLeaf& leaf, CopyReason reason) {
    nb::object kept;
    if (reason == CopyReason::kept) {
      kept = nb::steal(PyWeakref_NewRef(leaf.array.ptr(), nullptr));
      PyErr_Clear();  // without it, nobody learns who keeps the array
    }
    copied_.push_back({index, reason, std::move(kept)});
  }

  /// False if it was copied.
  bool add(const FoundLeaf& leaf, const std::optional<Region>& region) {
    auto* array = as_array(leaf.array);
    const auto bytes = static_cast<std::uint64_t>(PyArray_NBYTES(array));
    const auto shape = shape_of(array);
    if (bytes == 0) return place({}, 0, leaf, shape), true;
    if (!region || !is_most_of(*region)) return copy(leaf, array, bytes, shape), false;
    const auto* data = static_cast<const std::byte*>(PyArray_DATA(array));
    taken_.push_back(region->address);
    place(region->segment, region->offset + static_cast<std::uint64_t>(data - region->address), leaf, shape);
    return true;
  }

  void place(ipc::SegmentId segment, std::uint64_t offset, const FoundLeaf& leaf, const Shape& shape) {
    value_or_raise(manifest_.add(segment, offset, leaf.dtype, shape));
  }

  void copy(const FoundLeaf& leaf, PyArrayObject* array, std::uint64_t bytes, const Shape& shape) {
    auto region = connection_->arena().allocate_here(bytes, 0);
    if (!region)
      region = connection_->arena().find(value_or_raise(unlocked([&] {
        const detail::CallDeadline deadline(timeout_);
        return connection_->arena().allocate(bytes, 0, timeout_);
      })));
    made_.push_back(region->address);
    copy_dense(array, region->address);
    copied_bytes_ += bytes;
    place(region->segment, region->offset, leaf, shape);
  }

  /// The object keeps them from here on, or nobody does.
  void forget_made() {
    for (auto* address : made_) connection_->arena().free(address);
    made_.clear();
  }

  const ConnectionPtr& connection_;
  std::chrono::nanoseconds timeout_;
  ipc::Manifest manifest_;
  std::unordered_map<const std::byte*, std::uint64_t> used_bytes_;  ///< of each region: by the object's leaves
  std::vector<std::byte*> taken_;
  std::vector<std::byte*> made_;
  int copies_ = 0;
  std::vector<Copied> copied_;
  std::uint64_t copied_bytes_ = 0;
};

/// Whether this interpreter's reference counts mean what the rule needs, for results of plain and of awaited calls.
bool counts_are_known[2] = {false, false};

}  // namespace

PyRef deposit(const ConnectionPtr& connection, nb::handle root, const Call* call, Py_ssize_t root_references,
              Timeout timeout) {
  Tree tree = take_apart(root);
  std::vector<bool> sole(tree.leaves.size(), false);
  if (call && root_references > 0) sole = sole_owners(tree, root, root_references);
  Depositor depositor(connection, timeout);
  depositor.add(tree.leaves, sole, call);
  return depositor.seal(std::move(tree.description));
}

namespace {

using OpeningPtr = std::shared_ptr<const detail::Opening>;

nb::object opening_capsule(OpeningPtr opening) {
  auto* kept = new OpeningPtr(std::move(opening));
  nb::object capsule = nb::steal(PyCapsule_New(kept, "muster.opening", [](PyObject* object) {
    delete static_cast<OpeningPtr*>(PyCapsule_GetPointer(object, "muster.opening"));
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

/// The object's mapping and the private one both have to live: the object keeps its bytes from being used again, and
/// the daemon counts its mapping only.
struct Both {
  OpeningPtr opening;  // ends last: the daemon is told then
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
  // The object may have moved out of the segment meanwhile, which is gone then.
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

Opened open_or_raise(const Ref& ref) {
  return value_or_raise(unlocked([&] { return open(ref); }));
}

/// No other user makes this process import a library.
LeafKind kind_to_make(LeafKind given, ipc::Makers makers) {
  if (makers == ipc::Makers::one_user || given == LeafKind::numpy || given == LeafKind::matrix) return given;
  const char* library = given == LeafKind::torch ? "torch" : "jax.numpy";
  const bool imported = PyDict_GetItemString(PyImport_GetModuleDict(), library) != nullptr;
  return imported ? given : LeafKind::numpy;
}

/// What a large manifest says may have to be asked for; everything else is here.
const Ref& described(const PyRef& self) {
  if (const auto& hold = self.ref.hold(); hold && !hold->described)
    value_or_raise(unlocked([hold] { return detail::usable(hold); }));
  return self.ref;
}

/// torch has its own bfloat16: its bits travel as int16.
PyArray_Descr* descr_for(LeafKind kind, DType dtype) {
  return descr_of(kind == LeafKind::torch && dtype == DType::bfloat16 ? DType::int16 : dtype);
}

}  // namespace

Result<Opened> open(const Ref& ref, Timeout timeout) {
  std::optional<detail::CallDeadline> deadline;
  if (timeout) deadline.emplace(*timeout);
  return detail::open(ref.hold());
}

nb::object value_of(const Opened& opened) {
  const auto& manifest = opened.hold()->manifest;
  if (manifest.structure.empty() && manifest.guise.empty() && manifest.leaves.size() == 1) {
    const auto& view = opened.views.front();
    return array_over(view.data(), descr_of(view.dtype()), view.shape(), opening_capsule(opened.opening), false);
  }
  nb::object keeper;
  const auto make_leaf = [&](std::size_t index, LeafKind given) {
    const auto& leaf = manifest.leaves[index];
    const auto& view = opened.views[index];
    const LeafKind kind = kind_to_make(given, manifest.makers);
    PyArray_Descr* descr = descr_for(kind, leaf.dtype);
    if (kind == LeafKind::numpy || kind == LeafKind::matrix) {
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
  if (index >= opened.views.size()) raise(Error(Code::invalid, "the object has no leaf " + std::to_string(index)));
  const auto& leaf = opened.hold()->manifest.leaves[index];
  return private_view(opened.opening, leaf, opened.views[index].data(), descr_of(leaf.dtype));
}

namespace {

/// muster.empty: memory of the store that an array lies over until it is sealed.
struct Writable {
  ConnectionPtr connection;
  std::byte* address = nullptr;
  std::uint64_t bytes = 0;
  bool sealed = false;
  Writable(ConnectionPtr connection_, std::byte* address_, std::uint64_t bytes_)
      : connection(std::move(connection_)), address(address_), bytes(bytes_) {}
  Writable(const Writable&) = delete;
  Writable& operator=(const Writable&) = delete;
  ~Writable() { connection->arena().free(address); }
};

int writable_buffer(PyObject* self, Py_buffer* view, int flags) {
  auto* memory = nb::inst_ptr<Writable>(self);
  return PyBuffer_FillInfo(view, self, memory->address, static_cast<Py_ssize_t>(memory->bytes), memory->sealed ? 1 : 0,
                           flags);
}

PyType_Slot writable_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(writable_buffer)}, {0, nullptr}};

nb::object empty(const ConnectionPtr& connection, const std::vector<std::int64_t>& shape, nb::handle dtype,
                 nb::handle timeout) {
  PyArray_Descr* descr = nullptr;
  if (!PyArray_DescrConverter(dtype.ptr(), &descr)) throw nb::python_error();
  const auto known = dtype_of(descr);
  if (!known) {
    Py_DECREF(descr);
    raise(Error(Code::invalid, "dtype " + text_of(dtype) + " can't be stored"));
  }
  auto count = ipc::element_count(shape, *known);
  if (!count) {
    Py_DECREF(descr);
    raise(count.error());
  }
  const std::uint64_t bytes = *count * size_of(*known);
  const auto wait = deadline_from(timeout).value_or(detail::default_wait);
  const detail::CallDeadline deadline(wait);
  auto address = unlocked([&] { return connection->arena().allocate(bytes, 0, wait); });
  if (!address) {
    Py_DECREF(descr);
    raise(address.error());
  }
  nb::object owner = nb::cast(std::make_unique<Writable>(connection, *address, bytes));
  return array_over(*address, descr, shape, std::move(owner), true);
}

/// The memory of `muster.empty` behind an array; null if it is any other array.
Writable* memory_of(nb::handle array) {
  if (!PyArray_CheckExact(array.ptr())) return nullptr;
  PyObject* base = PyArray_BASE(reinterpret_cast<PyArrayObject*>(array.ptr()));
  return base && nb::isinstance<Writable>(base) ? nb::inst_ptr<Writable>(base) : nullptr;
}

PyRef take_over(const ConnectionPtr& connection, nb::handle array, Writable& memory, DType dtype) {
  auto* numpy = reinterpret_cast<PyArrayObject*>(array.ptr());
  const auto region = connection->arena().find(memory.address);
  ipc::Manifest manifest;
  const auto bytes = static_cast<std::uint64_t>(PyArray_NBYTES(numpy));
  const auto offset =
      region->offset + static_cast<std::uint64_t>(static_cast<std::byte*>(PyArray_DATA(numpy)) - region->address);
  value_or_raise(manifest.add(bytes ? region->segment : ipc::SegmentId{}, bytes ? offset : 0, dtype, shape_of(numpy)));
  // Before any other thread can make a view of it.
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

/// `callers`: references on the array that the call itself holds, whatever the caller's expression.
PyRef seal_array(const ConnectionPtr& connection, nb::handle array, Py_ssize_t callers, Timeout timeout) {
  auto* numpy = reinterpret_cast<PyArrayObject*>(array.ptr());
  // Memory of another connection belongs to the past of this process, or to its parent.
  if (auto* memory = memory_of(array);
      memory && memory->connection == connection && !memory->sealed && PyArray_ISALIGNED(numpy)) {
    const auto dtype = dtype_of(PyArray_DESCR(numpy));
    // Once the array itself is read-only, others can write through views and buffers, not through names for it.
    if (dtype && PyArray_IS_C_CONTIGUOUS(numpy) && Py_REFCNT(PyArray_BASE(numpy)) == 1 &&
        has_only_names(array, callers))
      return take_over(connection, array, *memory, *dtype);
  }
  auto made = deposit(connection, array, nullptr, 0, timeout);
  if (PyArray_Check(array.ptr())) PyArray_CLEARFLAGS(numpy, NPY_ARRAY_WRITEABLE);
  return made;
}

std::vector<ipc::Element> elements_of(const ipc::Manifest& manifest) {
  try {
    if (auto elements = ipc::elements_of(manifest.structure, manifest.guise)) return std::move(*elements);
  } catch (const ipc::DamagedStructure&) {
    raise_damaged();
  }
  raise(Error(Code::invalid, "the ref holds no list or tuple",
              "give one array, or a list with an element for each rank"));
}

/// The elements of a stored list, each an object of its own over the same bytes.
std::vector<PyRef> parts_of(const PyRef& whole) {
  const Opened opened = open_or_raise(whole.ref);
  const auto& manifest = opened.hold()->manifest;
  std::vector<PyRef> parts;
  std::size_t at = 0;
  for (auto& child : elements_of(manifest)) {
    ipc::Manifest part;
    for (std::size_t i = 0; i < child.leaves; ++i, ++at) {
      const auto& leaf = manifest.leaves.at(at);
      value_or_raise(part.add(leaf.segment, leaf.offset, leaf.dtype, manifest.shape(leaf)));
    }
    part.structure = std::move(child.description.structure);
    part.guise = std::move(child.description.guise);
    parts.push_back(
        {value_or_raise(unlocked([&] { return detail::derive(Ref(opened.hold()), std::move(part)); })), 0, {}});
  }
  return parts;
}

const char* name(CopyReason reason) {
  switch (reason) {
    case CopyReason::library: return "library";
    case CopyReason::order: return "order";
    case CopyReason::kept: return "kept";
    case CopyReason::elsewhere: return "elsewhere";
    case CopyReason::too_large: return "too large";
    case CopyReason::full: return "full";
    case CopyReason::small_part: return "small part";
  }
  return "unknown";
}

/// (path, reason, a weak reference or None) of each leaf that was copied.
nb::list copied_leaves(const PyRef& self) {
  nb::list leaves;
  if (!self.copied) return leaves;
  constexpr std::size_t named_max = 1000;
  const auto outline = ipc::outline_of(self.ref.structure(), std::numeric_limits<std::size_t>::max());
  for (const auto& copied : *self.copied) {
    const bool few = self.copied->size() <= named_max;
    const auto path = outline && few ? path_of_leaf(*outline, copied.leaf) : std::nullopt;
    const nb::object array = copied.array.is_valid() ? copied.array : nb::none();
    leaves.append(nb::make_tuple(path.value_or("leaf " + std::to_string(copied.leaf)), name(copied.reason), array));
  }
  return leaves;
}

/// What a decorated call returned. In a child that was forked during the call everything is copied, over the child's
/// own connection.
PyRef deposit_result(const Call& call, nb::handle result, bool counts_known, Timeout timeout) {
  if (!call.connection()->inherited()) return deposit(call.connection(), result, &call, counts_known ? 1 : 0, timeout);
  const auto own = nb::cast<ConnectionPtr>(nb::module_::import_("muster._runtime").attr("connection")());
  return deposit(own, result, nullptr, 0, timeout);
}

PyRef run(const ConnectionPtr& connection, nb::handle function, nb::handle args, nb::handle kwargs,
          nb::handle timeout) {
  const Timeout deadline = deadline_from(timeout);
  Call call(connection);
  call.enter();
  nb::object result = nb::steal(PyObject_Call(function.ptr(), args.ptr(), kwargs.ptr()));
  call.leave();
  if (!result.is_valid()) throw nb::python_error();
  return deposit_result(call, result, counts_are_known[0], deadline);
}

}  // namespace

void bind_objects(nb::module_& module) {
  nb::class_<PyRef>(module, "Stored")
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
      .def("get", [](const PyRef& self) { return value_of(open_or_raise(self.ref)); })
      .def("private_array", [](const PyRef& self, std::size_t leaf) { return private_array(self.ref, leaf); })
      .def("free", [](PyRef& self) { self.ref.free(); })
      .def("token",
           [](const PyRef& self) {
             const auto bytes = value_or_raise(unlocked([ref = self.ref] { return ref.serialize(); }));
             return nb::bytes(bytes.data(), bytes.size());
           })
      .def("rows",
           [](const PyRef& self, std::int64_t first, std::int64_t rows) {
             return PyRef{
                 value_or_raise(unlocked([&, ref = self.ref] { return detail::slice(ref, first, rows); })), 0, {}};
           })
      .def("parts", &parts_of);
  const nb::class_<Writable> writable(module, "Writable", nb::type_slots(writable_slots));
  nb::class_<Call>(module, "Call")
      .def(nb::init<const ConnectionPtr&>())
      .def("enter", &Call::enter)
      .def("leave", &Call::leave)
      .def(
          "finish",
          [](Call& self, nb::handle result, nb::handle timeout) {
            self.leave();
            return deposit_result(self, result, counts_are_known[1], deadline_from(timeout));
          },
          nb::arg("result").none(), nb::arg("timeout").none());
  module.def("run", &run, nb::arg("connection"), nb::arg("function"), nb::arg("args"), nb::arg("kwargs"),
             nb::arg("timeout").none());
  module.def(
      "put",
      [](const ConnectionPtr& connection, nb::handle value, nb::handle timeout) {
        return deposit(connection, value, nullptr, 0, deadline_from(timeout));
      },
      nb::arg("connection"), nb::arg("value").none(), nb::arg("timeout").none());
  module.def("empty", &empty, nb::arg("connection"), nb::arg("shape"), nb::arg("dtype"), nb::arg("timeout").none());
  module.def(
      "seal",
      [](const ConnectionPtr& connection, nb::handle array, Py_ssize_t callers, nb::handle timeout) {
        return seal_array(connection, array, callers, deadline_from(timeout));
      },
      nb::arg("connection"), nb::arg("array"), nb::arg("callers"), nb::arg("timeout").none());
  module.def("trust_counts", [](bool of_calls, bool of_awaits) {
    counts_are_known[0] = of_calls;
    counts_are_known[1] = of_awaits;
  });
}

}  // namespace muster::python
