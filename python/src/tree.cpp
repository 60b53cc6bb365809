#include "tree.hpp"

#include <utility>

namespace muster::python {

namespace {

nb::object helper(const char* name) { return nb::module_::import_("muster._trees").attr(name); }

class Walker {
 public:
  explicit Walker(Tree& tree) : tree_(tree) {}
  [[nodiscard]] Description description() { return std::move(writer_).take(); }

  void walk(nb::handle object, int depth) {
    if (depth > structure_depth_max)
      raise(Error(Code::invalid,
                  "the value nests deeper than " + std::to_string(structure_depth_max) + " levels, or contains itself",
                  "flatten it: a dict or list of arrays needs few levels"));
    PyObject* item = object.ptr();
    if (PyArray_CheckExact(item)) return array(object);
    if (item == Py_None || PyUnicode_CheckExact(item) || PyBytes_CheckExact(item))
      return writer_.constant(object, depth);
    if (PyDict_CheckExact(item)) return dict(object, depth);
    if (PyList_CheckExact(item)) {
      writer_.list(static_cast<std::size_t>(PyList_GET_SIZE(item)));
      return sequence(object, depth);
    }
    if (PyTuple_CheckExact(item)) {
      writer_.tuple(static_cast<std::size_t>(PyTuple_GET_SIZE(item)));
      return sequence(object, depth);
    }
    if (PyBool_Check(item) || PyLong_CheckExact(item) || PyFloat_CheckExact(item) || PyComplex_CheckExact(item) ||
        PyArray_IsScalar(item, Generic))
      return scalar(object, depth);
    other(object, depth);
  }

 private:
  /// Owned for as long as they are walked over: Python code runs on the way (other threads', too) and may change what
  /// they come from.
  using Items = StructureWriter::Objects;

  void leaf(FoundLeaf found) {
    writer_.leaf(found.kind);
    tree_.leaves.push_back(std::move(found));
  }

  void array(nb::handle object) {
    auto* array = reinterpret_cast<PyArrayObject*>(object.ptr());
    PyArray_Descr* descr = PyArray_DESCR(array);
    const auto dtype = dtype_in_any_order(descr);
    if (!dtype) unsupported(object);
    leaf({.array = nb::borrow(object), .dtype = *dtype, .as_given = PyArray_ISNBO(descr->byteorder)});
  }

  [[noreturn]] void unsupported(nb::handle object) {
    raise(Error(Code::invalid, "arrays of dtype " + text_of(nb::object(object.attr("dtype"))) + " can't be stored",
                "use bool, (u)int8 to 64, float16, bfloat16, float32, float64, complex64 or complex128"));
  }

  void scalar(nb::handle object, int depth) {
    nb::object made = nb::steal(PyArray_FromAny(object.ptr(), nullptr, 0, 0, 0, nullptr));
    if (!made.is_valid()) throw nb::python_error();
    const auto dtype = dtype_of(PyArray_DESCR(reinterpret_cast<PyArrayObject*>(made.ptr())));
    if (dtype) return leaf({.array = std::move(made), .dtype = *dtype, .as_given = false, .is_scalar = true});
    if (PyArray_IsScalar(object.ptr(), Number)) unsupported(made);
    if (PyLong_Check(object.ptr()))
      raise(Error(Code::invalid, "the integer " + text_of(object) + " doesn't fit in 64 bits",
                  "give float(value), or str(value) where its digits matter"));
    writer_.constant(object, depth);
  }

  void dict(nb::handle object, int depth) {
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    Py_ssize_t position = 0;
    Items keys;
    Items values;
    while (PyDict_Next(object.ptr(), &position, &key, &value)) {
      keys.push_back(nb::borrow(key));
      values.push_back(nb::borrow(value));
    }
    writer_.dict(keys, values, depth);
    children(values, depth);
  }

  void sequence(nb::handle object, int depth) {
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(object.ptr());
    Items items;
    for (Py_ssize_t i = 0; i < size; ++i) items.push_back(nb::borrow(PySequence_Fast_GET_ITEM(object.ptr(), i)));
    children(items, depth);
  }

  void children(const Items& items, int depth) {
    for (const auto& item : items) walk(item, depth + 1);
  }

  /// Named tuples, dataclasses, subclasses of containers, other libraries' arrays, constants: Python sorts them out.
  void other(nb::handle object, int depth) {
    nb::tuple sorted = sorted_out(object);
    const std::string what = nb::cast<std::string>(sorted[0]);
    if (what == "constant") return writer_.constant(object, depth);
    if (what == "array") return foreign(sorted);
    // What it is, then its values: attributes, or items of a subclass of dict, list or tuple.
    nb::tuple found = nb::cast<nb::tuple>(sorted[2]);
    Items values;
    for (nb::handle one : found)
      values.push_back(what == "items" ? nb::borrow(one) : nb::object(nb::getattr(object, one)));
    writer_.instance(sorted, values, depth);
    children(values, depth);
  }

  static nb::tuple sorted_out(nb::handle object) { return nb::cast<nb::tuple>(helper("sort_out")(object)); }

  void foreign(const nb::tuple& sorted) {
    nb::object array = sorted[1];
    const auto kind = static_cast<LeafKind>(nb::cast<std::string>(sorted[2]).front());
    auto* numpy = reinterpret_cast<PyArrayObject*>(array.ptr());
    auto dtype = dtype_in_any_order(PyArray_DESCR(numpy));
    if (!sorted[3].is_none()) dtype = static_cast<DType>(nb::cast<int>(sorted[3]));
    if (!dtype) unsupported(array);
    leaf({.array = array, .kind = kind, .dtype = *dtype, .as_given = false});
  }

  Tree& tree_;
  StructureWriter writer_;
};

}  // namespace

Tree take_apart(nb::handle root) {
  Tree tree;
  Walker walker(tree);
  walker.walk(root, 0);
  tree.description = walker.description();
  return tree;
}

}  // namespace muster::python
