#include "tree.hpp"

#include <utility>

namespace muster::python {

namespace {

nb::object helper(const char* name) { return nb::module_::import_("muster._trees").attr(name); }

class Walker {
 public:
  explicit Walker(Tree& tree) : tree_(tree) {}
  [[nodiscard]] std::string structure() { return std::move(writer_).take(); }

  void walk(nb::handle object, int depth) {
    if (depth > depth_max)
      raise(Error(Code::invalid,
                  "the value nests deeper than " + std::to_string(depth_max) + " levels, or contains itself"));
    PyObject* item = object.ptr();
    const bool first = ++tree_.references[item] == 1;
    if (PyArray_CheckExact(item)) return array(object, first);
    if (item == Py_None || PyUnicode_CheckExact(item) || PyBytes_CheckExact(item))
      return writer_.constant(object, depth);
    if (PyDict_CheckExact(item)) return dict(object, depth, first);
    if (PyList_CheckExact(item)) {
      writer_.list(static_cast<std::size_t>(PyList_GET_SIZE(item)));
      return sequence(object, depth, first);
    }
    if (PyTuple_CheckExact(item)) {
      writer_.tuple(static_cast<std::size_t>(PyTuple_GET_SIZE(item)));
      return sequence(object, depth, first);
    }
    if (PyBool_Check(item) || PyLong_CheckExact(item) || PyFloat_CheckExact(item) || PyComplex_CheckExact(item) ||
        PyArray_IsScalar(item, Generic))
      return scalar(object, depth);
    other(object, depth, first);
  }

 private:
  /// Owned for as long as they are walked over: Python code runs on the way (other threads', too) and may change what
  /// they come from.
  using Items = std::vector<nb::object>;

  void keep(nb::object object) {
    ++held_[object.ptr()];
    tree_.temporaries.push_back(std::move(object));
  }

  void leaf(nb::object array, LeafKind kind, DType dtype, bool as_given) {
    writer_.leaf(kind);
    tree_.leaves.push_back({std::move(array), kind, dtype, as_given, container_});
  }

  void array(nb::handle object, bool first) {
    auto* array = reinterpret_cast<PyArrayObject*>(object.ptr());
    const auto dtype = dtype_of(PyArray_DESCR(array));
    if (!dtype && !PyArray_ISNBO(PyArray_DESCR(array)->byteorder)) return foreign(sorted_out(object));
    if (!dtype) unsupported(object);
    // Each base is owned by the array in front of it.
    if (first)
      for (PyObject* base = PyArray_BASE(array); base;
           base = PyArray_Check(base) ? PyArray_BASE(reinterpret_cast<PyArrayObject*>(base)) : nullptr)
        if (++tree_.references[base] > 1) break;
    leaf(nb::borrow(object), LeafKind::numpy, *dtype, true);
  }

  [[noreturn]] void unsupported(nb::handle object) {
    raise(Error(Code::invalid, "arrays of dtype " + text_of(nb::object(object.attr("dtype"))) + " can't be stored",
                "use bool, (u)int8 to 64, float16, bfloat16, float32, float64, complex64 or complex128"));
  }

  void scalar(nb::handle object, int depth) {
    nb::object made = nb::steal(PyArray_FromAny(object.ptr(), nullptr, 0, 0, 0, nullptr));
    if (!made.is_valid()) throw nb::python_error();
    const auto dtype = dtype_of(PyArray_DESCR(reinterpret_cast<PyArrayObject*>(made.ptr())));
    if (dtype) return leaf(std::move(made), LeafKind::scalar, *dtype, false);
    if (PyArray_IsScalar(object.ptr(), Number)) unsupported(made);
    if (PyLong_Check(object.ptr()))
      raise(Error(Code::invalid, "the integer " + text_of(object) + " doesn't fit in 64 bits"));
    writer_.constant(object, depth);
  }

  void dict(nb::handle object, int depth, bool first) {
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    Py_ssize_t position = 0;
    Items keys;
    Items values;
    while (PyDict_Next(object.ptr(), &position, &key, &value)) {
      keys.push_back(nb::borrow(key));
      values.push_back(nb::borrow(value));
    }
    writer_.dict(keys, depth);
    children(object, values, depth, first);
  }

  void sequence(nb::handle object, int depth, bool first) {
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(object.ptr());
    Items items;
    for (Py_ssize_t i = 0; i < size; ++i) items.push_back(nb::borrow(PySequence_Fast_GET_ITEM(object.ptr(), i)));
    children(object, items, depth, first);
  }

  /// A container that is met again holds each child once only.
  void children(nb::handle object, const Items& items, int depth, bool first) {
    const auto outer = container_;
    container_ = std::make_shared<const Container>(Container{object.ptr(), outer});
    keep(nb::borrow(object));
    for (const auto& item : items) {
      walk(item, depth + 1);
      if (!first) --tree_.references[item.ptr()];
    }
    container_ = outer;
  }

  /// Named tuples, dataclasses, subclasses of containers, other libraries' arrays, constants: Python sorts them out.
  void other(nb::handle object, int depth, bool first) {
    nb::tuple sorted = sorted_out(object);
    const std::string what = nb::cast<std::string>(sorted[0]);
    if (what == "constant") return writer_.constant(object, depth);
    if (what == "array") return foreign(sorted);
    // What it is, then its values: attributes, or items of a subclass of dict, list or tuple.
    writer_.instance(sorted, depth);
    nb::tuple found = nb::cast<nb::tuple>(sorted[2]);
    Items values;
    for (nb::handle one : found) {
      values.push_back(what == "items" ? nb::borrow(one) : nb::object(nb::getattr(object, one)));
      keep(values.back());
    }
    children(object, values, depth, first);
  }

  static nb::tuple sorted_out(nb::handle object) { return nb::cast<nb::tuple>(helper("sort_out")(object)); }

  void foreign(const nb::tuple& sorted) {
    nb::object array = sorted[1];
    const auto kind = static_cast<LeafKind>(nb::cast<std::string>(sorted[2]).front());
    auto* numpy = reinterpret_cast<PyArrayObject*>(array.ptr());
    auto dtype = dtype_of(PyArray_DESCR(numpy));
    if (!sorted[3].is_none()) dtype = static_cast<DType>(nb::cast<int>(sorted[3]));
    if (!dtype) unsupported(array);
    leaf(array, kind, *dtype, false);
  }

  Tree& tree_;
  StructureWriter writer_;
  std::shared_ptr<const Container> container_;

 public:
  /// References of our own on containers, and on attributes and items of instances.
  std::unordered_map<PyObject*, Py_ssize_t> held_;
};

}  // namespace

Tree take_apart(nb::handle root) {
  Tree tree;
  Walker walker(tree);
  walker.walk(root, 0);
  for (const auto& [object, count] : walker.held_) tree.references[object] += count;
  tree.structure = walker.structure();
  return tree;
}

namespace {

bool has_weak_references(PyObject* object) {
  const Py_ssize_t offset = Py_TYPE(object)->tp_weaklistoffset;
  if (offset > 0) return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset) != nullptr;
  if (offset == 0) return false;
  return nb::cast<int>(nb::module_::import_("weakref").attr("getweakrefcount")(nb::handle(object))) != 0;
}

/// Whoever holds an instance's dict can reach its attributes.
bool dict_is_shared(PyObject* object) {
  if (PyArray_Check(object) || PyDict_Check(object)) return false;
  PyObject** dict = _PyObject_GetDictPtr(object);
  return dict && *dict && Py_REFCNT(*dict) != 1;
}

/// A chain of bases has to end in the array that owns the memory. What stands behind any other base (a memoryview, a
/// capsule of DLPack, NumPy's stand-in of as_strided) can't be counted: somebody may still write there.
bool base_is_visible(PyObject* object) {
  if (!PyArray_Check(object)) return false;
  auto* array = reinterpret_cast<PyArrayObject*>(object);
  return PyArray_BASE(array) || PyArray_CHKFLAGS(array, NPY_ARRAY_OWNDATA);
}

}  // namespace

std::vector<bool> sole_owners(const Tree& tree, nb::handle root, Py_ssize_t root_references) {
  std::unordered_map<PyObject*, Py_ssize_t> own;
  for (const auto& leaf : tree.leaves) ++own[leaf.array.ptr()];
  std::unordered_map<PyObject*, bool> known;
  const auto is_sole = [&](PyObject* object) {
    if (auto found = known.find(object); found != known.end()) return found->second;
    // The walk counted one reference on the root that does not exist.
    Py_ssize_t expected = tree.references.at(object) + (object == root.ptr() ? root_references - 1 : 0);
    if (auto ours = own.find(object); ours != own.end()) expected += ours->second;
    return known[object] = Py_REFCNT(object) == expected && !has_weak_references(object) && !dict_is_shared(object);
  };
  std::vector<bool> sole;
  for (const auto& leaf : tree.leaves) {
    bool all = leaf.as_given;
    for (const auto* at = leaf.container.get(); all && at; at = at->outer.get()) all = is_sole(at->object);
    for (PyObject* at = leaf.array.ptr(); all && at; at = PyArray_BASE(reinterpret_cast<PyArrayObject*>(at)))
      all = is_sole(at) && base_is_visible(at);
    sole.push_back(all);
  }
  return sole;
}

}  // namespace muster::python
