#include "tree.hpp"

#include "device_array.hpp"

#include <muster/ipc/text.hpp>

#include <utility>

#include <fmt/format.h>

namespace muster::python {

namespace {

nb::object helper(const char* name) { return nb::module_::import_("muster._trees").attr(name); }

class Walker {
 public:
  explicit Walker(Tree& tree) : tree_(tree) {}
  [[nodiscard]] ipc::Description description() { return std::move(writer_).take(); }
  /// The path of the part in which the walk raised: layer2.w. Empty if that is the whole value.
  [[nodiscard]] const std::string& path() const { return path_; }

  void walk(nb::handle object) {
    writer_.check_depth();
    PyObject* item = object.ptr();
    if (PyArray_CheckExact(item)) return array(object);
    if (item == Py_None || PyUnicode_CheckExact(item) || PyBytes_CheckExact(item))
      return write_constant(writer_, object);
    if (PyDict_CheckExact(item)) return dict(object);
    if (PyList_CheckExact(item)) return sequence(ipc::node::list, object);
    if (PyTuple_CheckExact(item)) return sequence(ipc::node::tuple, object);
    if (PyBool_Check(item) || PyLong_CheckExact(item) || PyFloat_CheckExact(item) || PyComplex_CheckExact(item) ||
        PyArray_IsScalar(item, Generic))
      return scalar(object);
    other(object);
  }

 private:
  /// Holds references during the walk: Python code runs meanwhile (of other threads, too) and may change the
  /// containers.
  using Items = std::vector<nb::object>;

  /// The function that the writer calls for each child. `step_to(i)` returns the path's text for the child; it is
  /// called only when something is wrong there.
  template <class StepTo>
  auto children(const Items& items, StepTo step_to) {
    return [this, &items, step_to](std::size_t i) {
      try {
        walk(items[i]);
      } catch (const nb::python_error&) {
        const bool joined = path_.empty() || path_.front() == '[';
        path_ = step_to(i) + (joined ? "" : ".") + path_;
        throw;
      }
    };
  }
  static std::string index_step(std::size_t index) { return fmt::format("[{}]", index); }
  /// A key that is an identifier stands as it is; other keys stand in brackets.
  static std::string step(nb::handle key) {
    constexpr std::size_t shown_bytes_max = 60;
    if (PyUnicode_Check(key.ptr()) && PyUnicode_IsIdentifier(key.ptr()) == 1) return nb::cast<std::string>(key);
    return fmt::format("[{}]", ipc::shortened(nb::cast<std::string>(nb::repr(key)), shown_bytes_max));
  }
  static auto steps_of(const Items& keys) {
    return [&keys](std::size_t i) { return step(keys[i]); };
  }
  auto keys_of(const Items& keys) {
    return [this, &keys](std::size_t i) { write_key(writer_, keys[i]); };
  }

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
    raise(Error(Code::invalid,
                fmt::format("arrays of dtype {} can't be stored", text_of(nb::object(object.attr("dtype")))),
                storable_dtypes));
  }

  void scalar(nb::handle object) {
    nb::object made = nb::steal(PyArray_FromAny(object.ptr(), nullptr, 0, 0, 0, nullptr));
    if (!made.is_valid()) throw nb::python_error();
    const auto dtype = dtype_of(PyArray_DESCR(reinterpret_cast<PyArrayObject*>(made.ptr())));
    if (dtype) return leaf({.array = std::move(made), .dtype = *dtype, .as_given = false, .is_scalar = true});
    if (PyArray_IsScalar(object.ptr(), Number)) unsupported(made);
    if (PyLong_Check(object.ptr()))
      raise(Error(Code::invalid, fmt::format("the integer {} doesn't fit in 64 bits", text_of(object)),
                  "give float(value), or str(value) where its digits matter"));
    write_constant(writer_, object);
  }

  void dict(nb::handle object) {
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    Py_ssize_t position = 0;
    Items keys;
    Items values;
    while (PyDict_Next(object.ptr(), &position, &key, &value)) {
      keys.push_back(nb::borrow(key));
      values.push_back(nb::borrow(value));
    }
    writer_.dict(keys.size(), keys_of(keys), children(values, steps_of(keys)));
  }

  void sequence(char letter, nb::handle object) {
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(object.ptr());
    Items items;
    for (Py_ssize_t i = 0; i < size; ++i) items.push_back(nb::borrow(PySequence_Fast_GET_ITEM(object.ptr(), i)));
    writer_.sequence(letter, items.size(), children(items, index_step));
  }

  /// Lets Python sort out named tuples, dataclasses, subclasses of containers, other libraries' arrays, and constants.
  void other(nb::handle object) {
    if (auto* on_gpu = device_array(object))
      return leaf({.array = nb::borrow(object), .on_gpu = on_gpu, .dtype = on_gpu->dtype});
    nb::tuple sorted = sorted_out(object);
    const std::string what = nb::cast<std::string>(sorted[0]);
    if (what == "constant") return write_constant(writer_, object);
    if (what == "array") return foreign(object, sorted);
    what == "class" ? instance_with_fields(object, sorted) : instance_with_items(sorted);
  }

  void instance_with_fields(nb::handle object, const nb::tuple& sorted) {
    const nb::object type = sorted[1];
    std::vector<std::string> fields;
    Items values;
    for (const nb::handle field : nb::cast<nb::tuple>(sorted[2])) {
      fields.push_back(nb::cast<std::string>(field));
      values.push_back(nb::object(nb::getattr(object, field)));
    }
    const auto name = name_of_class(type);
    const char form = is_tuple(type) ? ipc::node::named_tuple : ipc::node::dataclass;
    writer_.instance({form, name.module, name.name}, fields,
                     children(values, [&fields](std::size_t i) { return fields[i]; }));
  }

  /// For a subclass of dict, list or tuple.
  void instance_with_items(const nb::tuple& sorted) {
    const nb::tuple recipe = nb::cast<nb::tuple>(sorted[1]);
    const nb::object type = recipe[0];
    const Items values = items_of(nb::cast<nb::tuple>(sorted[2]));
    const auto name = name_of_class(type);
    if (recipe[1].is_none()) {
      const char form = is_tuple(type) ? ipc::node::tuple : ipc::node::list;
      return writer_.instance({form, name.module, name.name}, values.size(), children(values, index_step));
    }
    const Items keys = items_of(nb::cast<nb::tuple>(recipe[1]));
    const nb::tuple extra = nb::cast<nb::tuple>(recipe[2]);
    const nb::object factory = extra.empty() ? nb::none() : nb::object(extra[0]);
    const auto write = [&] { write_factory(writer_, factory); };
    writer_.instance({ipc::node::dict, name.module, name.name}, write, keys.size(), keys_of(keys),
                     children(values, steps_of(keys)));
  }

  static Items items_of(const nb::tuple& tuple) {
    Items items;
    for (const nb::handle one : tuple) items.push_back(nb::borrow(one));
    return items;
  }

  static bool is_tuple(nb::handle type) {
    return PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(type.ptr()), &PyTuple_Type) != 0;
  }

  static nb::tuple sorted_out(nb::handle object) { return nb::cast<nb::tuple>(helper("sort_out")(object)); }

  void foreign(nb::handle object, const nb::tuple& sorted) {
    nb::object array = sorted[1];
    const auto kind = ipc::leaf_kind_named(nb::cast<std::string>(sorted[2])).value();
    if (auto* on_gpu = device_array(array))
      return leaf({.array = array,
                   .on_gpu = on_gpu,
                   .kind = kind,
                   .dtype = on_gpu->dtype,
                   .as_given = on_gpu->other.is(object)});
    auto* numpy = reinterpret_cast<PyArrayObject*>(array.ptr());
    auto dtype = dtype_in_any_order(PyArray_DESCR(numpy));
    if (!sorted[3].is_none()) dtype = dtype_named(nb::cast<std::string>(sorted[3]));
    if (!dtype) unsupported(array);
    leaf({.array = array, .kind = kind, .dtype = *dtype, .as_given = false});
  }

  Tree& tree_;
  ipc::StructureWriter writer_;
  std::string path_;
};

/// Raises the same error again, and adds where in the value its cause is.
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

Tree take_apart(nb::handle root) try {
  Tree tree;
  Walker walker(tree);
  try {
    walker.walk(root);
  } catch (nb::python_error& error) {
    if (walker.path().empty() || !error.matches(nb::module_::import_("muster.errors").attr("Error"))) throw;
    raise_at(walker.path(), error);
  }
  tree.description = walker.description();
  return tree;
} catch (const ipc::StructureTooDeep&) {
  raise(Error(Code::invalid,
              fmt::format("the value nests deeper than {} levels, or contains itself", ipc::structure_depth_max),
              "flatten it: a dict or list of arrays needs few levels"));
}

}  // namespace muster::python
