#include "tree.hpp"

#include <utility>

#include <muster/ipc/text.hpp>

namespace muster::python {

namespace {

nb::object helper(const char* name) { return nb::module_::import_("muster._trees").attr(name); }

class Walker {
 public:
  explicit Walker(Tree& tree) : tree_(tree) {}
  [[nodiscard]] Description description() { return std::move(writer_).take(); }
  /// Where in the value the walk ended with an exception: layer2.w. Empty: in none of its parts.
  [[nodiscard]] const std::string& path() const { return path_; }

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
    children(values, depth, [&](std::size_t index) { return step(key_of(object, values[index])); });
  }

  void sequence(nb::handle object, int depth) {
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(object.ptr());
    Items items;
    for (Py_ssize_t i = 0; i < size; ++i) items.push_back(nb::borrow(PySequence_Fast_GET_ITEM(object.ptr(), i)));
    children(items, depth, index_step);
  }

  /// `step_to(i)`: the words for the way to an item. Only asked when something is wrong there.
  template <class StepTo>
  void children(const Items& items, int depth, StepTo step_to) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      try {
        walk(items[i], depth + 1);
      } catch (const nb::python_error&) {
        const bool joined = path_.empty() || path_.front() == '[';
        path_ = step_to(i) + (joined ? "" : ".") + path_;
        throw;
      }
    }
  }

  static std::string index_step(std::size_t index) { return "[" + std::to_string(index) + "]"; }

  /// Names stand as they are, and other keys in brackets.
  static std::string step(nb::handle key) {
    constexpr std::size_t shown_bytes_max = 60;
    if (PyUnicode_Check(key.ptr()) && PyUnicode_IsIdentifier(key.ptr()) == 1) return nb::cast<std::string>(key);
    return "[" + ipc::shortened(nb::cast<std::string>(nb::repr(key)), shown_bytes_max) + "]";
  }

  /// Found by its value: the values that are walked over stand in another order.
  static nb::object key_of(nb::handle dict, nb::handle value) {
    PyObject* key = nullptr;
    PyObject* item = nullptr;
    Py_ssize_t position = 0;
    while (PyDict_Next(dict.ptr(), &position, &key, &item))
      if (item == value.ptr()) return nb::borrow(key);
    return nb::str("?");  // another thread took it out
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
    children(values, depth, [&](std::size_t index) {
      if (what != "items") return step(found[index]);
      return PyDict_Check(object.ptr()) ? step(key_of(object, values[index])) : index_step(index);
    });
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
  std::string path_;
};

/// The same error, which says where in the value its cause is.
[[noreturn]] void raise_at(const std::string& path, nb::python_error& error) {
  constexpr std::size_t shown_bytes_max = 120;
  nb::object cause = nb::borrow(error.value());
  nb::object made = error.type()(nb::str("at ") + nb::str(ipc::shortened(path, shown_bytes_max).c_str()) +
                                     nb::str(": ") + nb::object(cause.attr("message")),
                                 cause.attr("hint"), cause.attr("ranks"));
  nb::setattr(made, "__cause__", cause.attr("__cause__"));
  PyErr_SetObject(error.type().ptr(), made.ptr());
  throw nb::python_error();
}

}  // namespace

Tree take_apart(nb::handle root) {
  Tree tree;
  Walker walker(tree);
  try {
    walker.walk(root, 0);
  } catch (nb::python_error& error) {
    if (walker.path().empty() || !error.matches(nb::module_::import_("muster.errors").attr("Error"))) throw;
    raise_at(walker.path(), error);
  }
  tree.description = walker.description();
  return tree;
}

}  // namespace muster::python
