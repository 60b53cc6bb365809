#include "structure.hpp"

#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/structure_reader.hpp>

namespace muster::python {

namespace node = ipc::node;
using ipc::Atom;
using ipc::ClassName;
using ipc::DamagedStructure;
using ipc::StructureReader;
using ipc::StructureWriter;

namespace {

nb::object helper(const char* name) { return nb::module_::import_("muster._structure").attr(name); }

nb::object owned(PyObject* made) {
  if (!made) throw nb::python_error();
  return nb::steal(made);
}

// ---- writing ----

void write_integer(StructureWriter& writer, nb::handle object) {
  int overflow = 0;
  const long long small = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
  if (!overflow) return writer.integer(small);
  const auto bits = nb::cast<std::size_t>(object.attr("bit_length")());
  const nb::bytes bytes =
      nb::cast<nb::bytes>(object.attr("to_bytes")(bits / 8 + 1, "little", nb::arg("signed") = true));
  writer.large_integer({bytes.c_str(), bytes.size()});
}

void write_string(StructureWriter& writer, nb::handle object) {
  Py_ssize_t size = 0;
  if (const char* utf8 = PyUnicode_AsUTF8AndSize(object.ptr(), &size))
    return writer.string({utf8, static_cast<std::size_t>(size)});
  PyErr_Clear();
  const nb::object bytes = owned(PyUnicode_AsEncodedString(object.ptr(), "utf-8", "surrogatepass"));
  writer.string({PyBytes_AS_STRING(bytes.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.ptr()))});
}

void write_pickle(StructureWriter& writer, nb::handle object) {
  writer.check_depth();
  const nb::object type = nb::borrow(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())));
  const auto name = nb::cast<std::string>(helper("label_of")(type));
  const nb::bytes pickled = nb::cast<nb::bytes>(helper("dumps")(object));
  writer.pickle(name, {pickled.c_str(), pickled.size()});
}

/// A set may be a constant, but not a part of one.
bool is_set(nb::handle object) { return PyAnySet_CheckExact(object.ptr()) && !PyFrozenSet_CheckExact(object.ptr()); }

void write_part(StructureWriter& writer, nb::handle object);

/// Writes the items of a tuple, a frozenset or a set.
void write_parts(StructureWriter& writer, nb::handle object) {
  writer.check_depth();
  const auto items = nb::borrow<nb::list>(owned(PySequence_List(object.ptr())));
  const auto write = [&](std::size_t i) { write_part(writer, nb::object(items[i])); };
  if (PyTuple_CheckExact(object.ptr())) return writer.sequence(node::tuple, items.size(), write);
  writer.unordered(is_set(object) ? node::set : node::frozen_set, items.size(), write);
}

/// Writes a constant, or a part of one.
void write_part(StructureWriter& writer, nb::handle object) {
  PyObject* item = object.ptr();
  if (PyUnicode_CheckExact(item)) return write_string(writer, object);
  if (PyLong_CheckExact(item)) return write_integer(writer, object);
  if (item == Py_None) return writer.none();
  if (PyBool_Check(item)) return writer.boolean(item == Py_True);
  if (PyBytes_CheckExact(item))
    return writer.bytes({PyBytes_AS_STRING(item), static_cast<std::size_t>(PyBytes_GET_SIZE(item))});
  if (PyFloat_CheckExact(item)) return writer.real(PyFloat_AS_DOUBLE(item));
  if (PyComplex_CheckExact(item)) return writer.complex(PyComplex_RealAsDouble(item), PyComplex_ImagAsDouble(item));
  if (PyTuple_CheckExact(item) || PyFrozenSet_CheckExact(item)) return write_parts(writer, object);
  write_pickle(writer, object);
}

[[noreturn]] void refuse_deep_constant() {
  raise(Error(Code::invalid, fmt::format("a constant nests deeper than {} levels", ipc::structure_depth_max),
              "flatten it, or put it in as text: json.dumps(value)"));
}

}  // namespace

void write_key(StructureWriter& writer, nb::handle object) {
  try {
    write_part(writer, object);
  } catch (const ipc::StructureTooDeep&) {
    refuse_deep_constant();
  }
}

void write_constant(StructureWriter& writer, nb::handle object) {
  try {
    writer.constant([&] { is_set(object) ? write_parts(writer, object) : write_part(writer, object); });
  } catch (const ipc::StructureTooDeep&) {
    refuse_deep_constant();
  } catch (const ipc::ConstantTooLarge& error) {
    raise(Error(Code::invalid,
                fmt::format("a constant {} takes {}", Py_TYPE(object.ptr())->tp_name,
                            ipc::over_text(error.bytes, ipc::constant_bytes_max)),
                "make it an array, for instance np.frombuffer(data, np.uint8)"));
  }
}

NameOfClass name_of_class(nb::handle type) {
  const nb::tuple name = nb::cast<nb::tuple>(helper("name_of")(type));
  return {nb::cast<std::string>(name[0]), nb::cast<std::string>(name[1])};
}

void write_factory(StructureWriter& writer, nb::handle factory) {
  if (!PyType_Check(factory.ptr())) return write_key(writer, factory);
  const auto name = name_of_class(factory);
  writer.class_by_name(name.module, name.name);
}

// ---- reading ----

namespace {

std::string_view shortened(std::string_view text) {
  constexpr std::size_t name_bytes_max = 100;
  return text.substr(0, name_bytes_max);
}

nb::object text_from(std::string_view bytes) {
  PyObject* made = PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "surrogatepass");
  if (made) return nb::steal(made);
  PyErr_Clear();
  throw DamagedStructure();
}

nb::object bytes_from(std::string_view bytes) {
  return owned(PyBytes_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
}

nb::object integer_from(std::string_view bytes) {
  long long small = 0;
  if (bytes.size() == sizeof small) {
    std::memcpy(&small, bytes.data(), sizeof small);
    return owned(PyLong_FromLongLong(small));
  }
  const nb::handle type(reinterpret_cast<PyObject*>(&PyLong_Type));
  return type.attr("from_bytes")(bytes_from(bytes), "little", nb::arg("signed") = true);
}

/// Builds the value.
class Builder {
 public:
  using Value = nb::object;
  using Values = std::vector<Value>;

  Builder(const ipc::Guise& guise, std::size_t leaves, ipc::Makers makers, const MakeLeaf& make_leaf)
      : guise_(guise), leaves_(leaves), data_only_(makers == ipc::Makers::several_users), make_leaf_(make_leaf) {}

  Value leaf() {
    if (used_ >= leaves_) raise(Error(Code::invalid, "an object's structure has more leaves than the object"));
    const std::size_t index = used_++;
    return make_leaf_(index, guise_.kind(index));
  }

  Value atom(const Atom& atom) {
    switch (atom.node) {
      case node::none: return nb::none();
      case node::true_: return nb::borrow(Py_True);
      case node::false_: return nb::borrow(Py_False);
      case node::integer: return integer_from(atom.bytes);
      case node::string: return text_from(atom.bytes);
      case node::bytes: return bytes_from(atom.bytes);
      case node::named: return nb::make_tuple(text_from(atom.type), text_from(atom.bytes));
      case node::pickle:
        if (data_only_) refuse(atom.type);
        return helper("loads")(bytes_from(atom.bytes));
      default: break;
    }
    double parts[2] = {0, 0};
    std::memcpy(parts, atom.bytes.data(), atom.bytes.size());
    return owned(atom.node == node::real ? PyFloat_FromDouble(parts[0]) : PyComplex_FromDoubles(parts[0], parts[1]));
  }

  Value sequence(char node, Values&& items) {
    const auto size = static_cast<Py_ssize_t>(items.size());
    if (node == node::list) return list_of(std::move(items));
    if (node == node::set || node == node::frozen_set) {
      count_hashed(items);
      const nb::object list = list_of(std::move(items));
      return owned(node == node::set ? PySet_New(list.ptr()) : PyFrozenSet_New(list.ptr()));
    }
    nb::object tuple = owned(PyTuple_New(size));
    for (Py_ssize_t i = 0; i < size; ++i)
      PyTuple_SET_ITEM(tuple.ptr(), i, items[static_cast<std::size_t>(i)].release().ptr());
    return tuple;
  }

  Value dict(std::size_t which, Values&& keys, Values&& values) {
    count_hashed(keys);
    put_in_order(which, keys, values);
    nb::object dict = owned(PyDict_New());
    for (std::size_t i = 0; i < keys.size(); ++i)
      if (PyDict_SetItem(dict.ptr(), keys[i].ptr(), values[i].ptr()) != 0) throw nb::python_error();
    return dict;
  }

  Value instance(const ClassName& name, std::size_t which, Values&& factory, std::vector<std::string_view>&& fields,
                 Values&& keys, Values&& values) {
    if (name.form == node::dict) put_in_order(which, keys, values);
    if (name.form == node::named_tuple || name.form == node::dataclass)
      for (const auto field : fields) keys.push_back(text_from(field));
    else count_hashed(keys);
    const std::string form(ipc::form_name(name.form));
    return helper(data_only_ ? "rebuild_as_data" : "rebuild")(form, text_from(name.module), text_from(name.name),
                                                              factory.empty() ? nb::none() : factory.front(),
                                                              list_of(std::move(keys)), list_of(std::move(values)));
  }

 private:
  /// Restores the order that the keys had in the given dict.
  void put_in_order(std::size_t which, Values& keys, Values& values) const {
    const auto places = guise_.places(which, keys.size());
    if (!places) return;
    Values ordered_keys;
    Values ordered_values;
    for (const std::size_t place : *places) {
      ordered_keys.push_back(std::move(keys[place]));
      ordered_values.push_back(std::move(values[place]));
    }
    keys = std::move(ordered_keys);
    values = std::move(ordered_values);
  }

  static nb::object list_of(Values&& items) {
    nb::object list = owned(PyList_New(static_cast<Py_ssize_t>(items.size())));
    for (std::size_t i = 0; i < items.size(); ++i)
      PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i), items[i].release().ptr());
    return list;
  }

  [[noreturn]] static void refuse(std::string_view type) {
    raise(Error(
        Code::denied,
        fmt::format(
            "the value holds a pickled {} of another user's making, and no process unpickles what another user made",
            nb::cast<std::string>(nb::repr(text_from(shortened(type))))),
        "in an open group pass plain data: arrays, numbers, str, bytes, None, and dict, list, tuple, set, "
        "named tuple and dataclass of these"));
  }

  /// Numbers can be chosen so that all hashes are equal, which makes a dict slow; str and bytes can't.
  void count_hashed(const Values& keys) {
    constexpr std::size_t numbers_max = 4096;
    if (!data_only_) return;
    for (const auto& key : keys) hashed_ += !PyUnicode_CheckExact(key.ptr()) && !PyBytes_CheckExact(key.ptr());
    if (hashed_ <= numbers_max) return;
    raise(Error(Code::denied,
                fmt::format("the value of another user's making has more than {} keys that are neither str nor bytes",
                            numbers_max),
                "in an open group use keys of str, or an array of the keys"));
  }

  const ipc::Guise& guise_;
  std::size_t leaves_;
  bool data_only_;
  const MakeLeaf& make_leaf_;
  std::size_t used_ = 0;
  std::size_t hashed_ = 0;
};

}  // namespace

void raise_damaged() { raise(Error(Code::invalid, DamagedStructure().what())); }

nb::object put_together(std::string_view structure, std::string_view guise, std::size_t leaves, ipc::Makers makers,
                        const MakeLeaf& make_leaf) {
  try {
    const ipc::Guise read(guise);
    if (structure.empty()) return leaves == 0 ? nb::none() : make_leaf(0, read.kind(0));
    Builder builder(read, leaves, makers, make_leaf);
    return StructureReader(structure, builder).whole();
  } catch (const DamagedStructure&) {
    raise_damaged();
  }
}

nb::object readable(std::string_view structure) {
  constexpr std::size_t shown_bytes_max = 2000;
  const auto outline = ipc::outline_of(structure, std::numeric_limits<std::size_t>::max());
  const std::string text = outline ? text_of(*outline, shown_bytes_max) : "?";
  return owned(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

}  // namespace muster::python
