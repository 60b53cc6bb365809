#include "tree.hpp"

#include <cstring>

namespace muster::python {

namespace {

constexpr int depth_max = 200;

/// Node letters beside the leaves' own: dict, list, tuple, named tuple or dataclass, constant, None.
constexpr char dict_node = 'D';
constexpr char list_node = 'L';
constexpr char tuple_node = 'U';
constexpr char class_node = 'K';
constexpr char constant_node = 'P';
constexpr char none_node = 'Z';

void put_number(std::string& out, std::uint32_t number) {
  out.append(reinterpret_cast<const char*>(&number), sizeof number);
}

void put_bytes(std::string& out, std::string_view bytes) {
  put_number(out, static_cast<std::uint32_t>(bytes.size()));
  out.append(bytes);
}

nb::object helper(const char* name) { return nb::module_::import_("muster._trees").attr(name); }

std::string pickled(nb::handle object) {
  nb::bytes bytes = nb::cast<nb::bytes>(helper("dumps")(object));
  return {bytes.c_str(), bytes.size()};
}

class Walker {
 public:
  explicit Walker(Tree& tree) : tree_(tree) {}

  void walk(nb::handle object, int depth) {
    if (depth > depth_max)
      raise(Error(Code::invalid,
                  "the value nests deeper than " + std::to_string(depth_max) + " levels, or contains itself"));
    PyObject* item = object.ptr();
    const bool first = ++tree_.references[item] == 1;
    if (PyArray_CheckExact(item)) return array(object, first);
    if (item == Py_None) return tree_.structure.push_back(none_node);
    if (PyDict_CheckExact(item)) return dict(object, depth, first);
    if (PyList_CheckExact(item)) return sequence(object, list_node, depth, first);
    if (PyTuple_CheckExact(item)) return sequence(object, tuple_node, depth, first);
    if (PyBool_Check(item) || PyLong_CheckExact(item) || PyFloat_CheckExact(item) || PyComplex_CheckExact(item) ||
        PyArray_IsScalar(item, Generic))
      return scalar(object);
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
    tree_.structure.push_back(static_cast<char>(kind));
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

  void scalar(nb::handle object) {
    nb::object made = nb::steal(PyArray_FromAny(object.ptr(), nullptr, 0, 0, 0, nullptr));
    if (!made.is_valid()) throw nb::python_error();
    const auto dtype = dtype_of(PyArray_DESCR(reinterpret_cast<PyArrayObject*>(made.ptr())));
    if (dtype) return leaf(std::move(made), LeafKind::scalar, *dtype, false);
    if (PyArray_IsScalar(object.ptr(), Number)) unsupported(made);
    if (PyLong_Check(object.ptr()))
      raise(Error(Code::invalid, "the integer " + text_of(object) + " doesn't fit in 64 bits"));
    constant(object);
  }

  void constant(nb::handle object) {
    tree_.structure.push_back(constant_node);
    put_bytes(tree_.structure, pickled(object));
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
    tree_.structure.push_back(dict_node);
    put_number(tree_.structure, static_cast<std::uint32_t>(keys.size()));
    for (const auto& one : keys) put_key(one);
    children(object, values, depth, first);
  }

  void put_key(nb::handle key) {
    Py_ssize_t size = 0;
    const char* text = PyUnicode_CheckExact(key.ptr()) ? PyUnicode_AsUTF8AndSize(key.ptr(), &size) : nullptr;
    if (text) {
      tree_.structure.push_back('s');
      return put_bytes(tree_.structure, {text, static_cast<std::size_t>(size)});
    }
    PyErr_Clear();
    tree_.structure.push_back('p');
    put_bytes(tree_.structure, pickled(key));
  }

  void sequence(nb::handle object, char node, int depth, bool first) {
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(object.ptr());
    tree_.structure.push_back(node);
    put_number(tree_.structure, static_cast<std::uint32_t>(size));
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
    if (what == "constant") return constant(object);
    if (what == "array") return foreign(sorted);
    // How to rebuild it, then its values: attributes, or items of a subclass of dict, list or tuple.
    tree_.structure.push_back(class_node);
    put_bytes(tree_.structure, pickled(sorted[1]));
    nb::tuple found = nb::cast<nb::tuple>(sorted[2]);
    put_number(tree_.structure, static_cast<std::uint32_t>(found.size()));
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
  std::shared_ptr<const Container> container_;

 public:
  /// References of our own on containers, and on attributes and items of instances.
  std::unordered_map<PyObject*, Py_ssize_t> held_;
};

class Reader {
 public:
  Reader(std::string_view structure, const std::vector<nb::object>& leaves) : text_(structure), leaves_(leaves) {}

  nb::object read() {
    const char node = next();
    switch (node) {
      case 'A':
      case 'S':
      case 'T':
      case 'J': return leaf();
      case none_node: return nb::none();
      case constant_node: return helper("loads")(blob());
      case dict_node: return dict();
      case list_node: {
        nb::list list;
        for (auto n = number(); n > 0; --n) list.append(read());
        return list;
      }
      case tuple_node: {
        nb::list list;
        for (auto n = number(); n > 0; --n) list.append(read());
        return nb::tuple(list);
      }
      case class_node: return instance();
      default: raise(Error(Code::invalid, "an object's structure is damaged"));
    }
  }

 private:
  char next() {
    need(1);
    return text_[at_++];
  }
  void need(std::size_t bytes) {
    if (text_.size() - at_ < bytes) raise(Error(Code::invalid, "an object's structure is damaged"));
  }
  std::uint32_t number() {
    need(sizeof(std::uint32_t));
    std::uint32_t value = 0;
    std::memcpy(&value, text_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::string_view bytes() {
    const auto size = number();
    need(size);
    at_ += size;
    return text_.substr(at_ - size, size);
  }
  nb::bytes blob() {
    const auto found = bytes();
    return nb::bytes(found.data(), found.size());
  }
  nb::object leaf() {
    if (used_ >= leaves_.size()) raise(Error(Code::invalid, "an object's structure has more leaves than the object"));
    return leaves_[used_++];
  }
  nb::object dict() {
    const auto size = number();
    std::vector<nb::object> keys;
    for (std::uint32_t i = 0; i < size; ++i) {
      if (next() == 's') {
        const auto text = bytes();
        keys.push_back(nb::str(text.data(), text.size()));
      } else {
        keys.push_back(helper("loads")(blob()));
      }
    }
    nb::dict dict;
    for (const auto& key : keys) dict[key] = read();
    return dict;
  }
  nb::object instance() {
    nb::object type = helper("loads")(blob());
    nb::list values;
    for (auto n = number(); n > 0; --n) values.append(read());
    return helper("rebuild")(type, values);
  }

  std::string_view text_;
  const std::vector<nb::object>& leaves_;
  std::size_t at_ = 0;
  std::size_t used_ = 0;
};

}  // namespace

Tree take_apart(nb::handle root) {
  Tree tree;
  Walker walker(tree);
  walker.walk(root, 0);
  for (const auto& [object, count] : walker.held_) tree.references[object] += count;
  if (tree.structure == "A") tree.structure.clear();
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

namespace {

/// Walks over a structure without building anything.
class Skimmer {
 public:
  explicit Skimmer(std::string_view structure) : text_(structure) {}
  std::string text;  ///< for people
  std::vector<LeafKind> kinds;
  [[nodiscard]] std::size_t position() const { return at_; }

  void skim() {
    const char node = take();
    switch (node) {
      case 'A':
      case 'S':
      case 'T':
      case 'J':
        kinds.push_back(static_cast<LeafKind>(node));
        text += '*';
        return;
      case none_node: text += "None"; return;
      case constant_node:
        bytes();
        text += "...";
        return;
      case dict_node: return dict();
      case list_node: return children("[", "]");
      case tuple_node: return children("(", ")");
      case class_node: bytes(); return children("<", ">");
      default: raise(Error(Code::invalid, "an object's structure is damaged"));
    }
  }

 private:
  char take() {
    if (at_ >= text_.size()) raise(Error(Code::invalid, "an object's structure is damaged"));
    return text_[at_++];
  }
  std::uint32_t number() {
    std::uint32_t value = 0;
    if (text_.size() - at_ < sizeof value) raise(Error(Code::invalid, "an object's structure is damaged"));
    std::memcpy(&value, text_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::string_view bytes() {
    const auto size = number();
    if (text_.size() - at_ < size) raise(Error(Code::invalid, "an object's structure is damaged"));
    at_ += size;
    return text_.substr(at_ - size, size);
  }
  void children(const char* open, const char* close) {
    text += open;
    const auto size = number();
    for (std::uint32_t i = 0; i < size; ++i) {
      if (i) text += ", ";
      skim();
    }
    text += close;
  }
  void dict() {
    const auto size = number();
    std::vector<std::string> keys;
    for (std::uint32_t i = 0; i < size; ++i) {
      const bool plain = take() == 's';
      const auto key = bytes();
      keys.push_back(plain ? '"' + std::string(key) + '"' : "...");
    }
    text += "{";
    for (std::uint32_t i = 0; i < size; ++i) {
      text += (i ? ", " : "") + keys[i] + ": ";
      skim();
    }
    text += "}";
  }
  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

std::vector<LeafKind> leaf_kinds(std::string_view structure, std::size_t leaves) {
  if (structure.empty()) return std::vector<LeafKind>(leaves, LeafKind::numpy);
  Skimmer skimmer(structure);
  skimmer.skim();
  skimmer.kinds.resize(leaves, LeafKind::numpy);
  return skimmer.kinds;
}

std::vector<Child> children_of(std::string_view structure) {
  constexpr std::size_t head = 1 + sizeof(std::uint32_t);
  if (structure.size() < head || (structure[0] != list_node && structure[0] != tuple_node))
    raise(Error(Code::invalid, "the ref holds no list or tuple",
                "give one array, or a list with an element for each rank"));
  std::uint32_t count = 0;
  std::memcpy(&count, structure.data() + 1, sizeof count);
  std::vector<Child> children;
  std::size_t at = head;
  for (std::uint32_t i = 0; i < count; ++i) {
    Skimmer skimmer(structure.substr(at));
    skimmer.skim();
    const auto part = structure.substr(at, skimmer.position());
    children.push_back({part == "A" ? std::string() : std::string(part), skimmer.kinds.size()});
    at += part.size();
  }
  return children;
}

std::string readable(std::string_view structure) {
  if (structure.empty()) return "*";
  Skimmer skimmer(structure);
  skimmer.skim();
  return skimmer.text;
}

nb::object put_together(std::string_view structure, const std::vector<nb::object>& leaves) {
  if (structure.empty()) return leaves.empty() ? nb::none() : leaves.front();
  return Reader(structure, leaves).read();
}

}  // namespace muster::python
