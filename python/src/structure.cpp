#include "structure.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/structure_reader.hpp>

namespace muster::python {

namespace node = ipc::node;
using ipc::Atom;
using ipc::ClassName;
using ipc::DamagedStructure;
using ipc::StructureReader;

namespace {

nb::object helper(const char* name) { return nb::module_::import_("muster._structure").attr(name); }

nb::object owned(PyObject* made) {
  if (!made) throw nb::python_error();
  return nb::steal(made);
}

void append_number(std::string& bytes, std::size_t number) {
  const auto written = static_cast<std::uint32_t>(number);
  bytes.append(reinterpret_cast<const char*>(&written), sizeof written);
}

std::string guise_of(std::string_view kinds, std::string_view orders) {
  const bool plain = kinds.find_first_not_of(static_cast<char>(LeafKind::numpy)) == std::string_view::npos;
  if (plain) kinds = {};
  if (plain && orders.empty()) return {};
  std::string guise;
  append_number(guise, kinds.size());
  return guise.append(kinds).append(orders);
}

}  // namespace

// ---- writing ----

Description StructureWriter::take() && {
  if (bytes_.size() == 1 && bytes_.front() == node::leaf) bytes_.clear();
  return {std::move(bytes_), guise_of(kinds_, orders_)};
}

void StructureWriter::leaf(LeafKind kind) {
  bytes_.push_back(node::leaf);
  kinds_.push_back(static_cast<char>(kind));
}

void StructureWriter::number(std::size_t number) { append_number(bytes_, number); }

void StructureWriter::text(std::string_view bytes) {
  number(bytes.size());
  bytes_.append(bytes);
}

void StructureWriter::dict(const Objects& keys, Objects& values, int depth) {
  bytes_.push_back(node::dict);
  this->keys(keys, values, depth);
}

void StructureWriter::list(std::size_t items) {
  bytes_.push_back(node::list);
  number(items);
}

void StructureWriter::tuple(std::size_t items) {
  bytes_.push_back(node::tuple);
  number(items);
}

/// In an order of their bytes, so that dicts with equal keys have equal structures; the order they had is noted.
void StructureWriter::keys(const Objects& keys, Objects& values, int depth) {
  const std::size_t which = dicts_++;
  number(keys.size());
  const std::size_t begin = bytes_.size();
  std::vector<std::size_t> ends;
  ends.reserve(keys.size());
  for (const auto& key : keys) {
    part(key, depth + 1);
    ends.push_back(bytes_.size());
  }
  const auto written = [&](std::size_t key) {
    const std::size_t from = key == 0 ? begin : ends[key - 1];
    return std::string_view(bytes_).substr(from, ends[key] - from);
  };
  std::vector<std::size_t> sorted(keys.size());
  std::iota(sorted.begin(), sorted.end(), std::size_t{0});
  const auto before = [&](std::size_t a, std::size_t b) { return written(a) < written(b); };
  if (std::is_sorted(sorted.begin(), sorted.end(), before)) return;

  std::sort(sorted.begin(), sorted.end(), before);
  std::string in_order;
  Objects values_in_order;
  std::vector<std::size_t> places(keys.size());
  for (std::size_t place = 0; place < sorted.size(); ++place) {
    in_order += written(sorted[place]);
    values_in_order.push_back(std::move(values[sorted[place]]));
    places[sorted[place]] = place;
  }
  bytes_.replace(begin, std::string::npos, in_order);
  values = std::move(values_in_order);
  append_number(orders_, which);
  append_number(orders_, places.size());
  for (const std::size_t place : places) append_number(orders_, place);
}

void StructureWriter::constant(nb::handle object, int depth) {
  const std::size_t before = bytes_.size();
  if (PyAnySet_CheckExact(object.ptr()) && !PyFrozenSet_CheckExact(object.ptr())) unordered(node::set, object, depth);
  else part(object, depth);
  const std::size_t bytes = bytes_.size() - before;
  if (bytes > constant_bytes_max)
    raise(Error(Code::invalid,
                "a constant " + std::string(Py_TYPE(object.ptr())->tp_name) + " takes " +
                    ipc::over_text(bytes, constant_bytes_max),
                "make it an array, for instance np.frombuffer(data, np.uint8)"));
}

/// A constant, or a part of one.
void StructureWriter::part(nb::handle object, int depth) {
  if (depth > structure_depth_max)
    raise(Error(Code::invalid, "a constant nests deeper than " + std::to_string(structure_depth_max) + " levels",
                "flatten it, or put it in as text: json.dumps(value)"));
  PyObject* item = object.ptr();
  if (PyUnicode_CheckExact(item)) return string(object);
  if (PyLong_CheckExact(item)) return integer(object);
  if (item == Py_None) return bytes_.push_back(node::none);
  if (PyBool_Check(item)) return bytes_.push_back(item == Py_True ? node::true_ : node::false_);
  if (PyBytes_CheckExact(item)) {
    bytes_.push_back(node::bytes);
    return text({PyBytes_AS_STRING(item), static_cast<std::size_t>(PyBytes_GET_SIZE(item))});
  }
  if (PyFloat_CheckExact(item) || PyComplex_CheckExact(item)) {
    const double parts[] = {PyComplex_RealAsDouble(item), PyComplex_ImagAsDouble(item)};
    const bool real = PyFloat_CheckExact(item);
    bytes_.push_back(real ? node::real : node::complex);
    bytes_.append(reinterpret_cast<const char*>(parts), real ? sizeof(double) : sizeof parts);
    return;
  }
  if (PyTuple_CheckExact(item)) {
    std::vector<nb::object> items;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(item); ++i) items.push_back(nb::borrow(PyTuple_GET_ITEM(item, i)));
    return parts(node::tuple, items, depth);
  }
  if (PyFrozenSet_CheckExact(item)) return unordered(node::frozen_set, object, depth);
  pickle(object);
}

void StructureWriter::integer(nb::handle object) {
  bytes_.push_back(node::integer);
  int overflow = 0;
  const long long small = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
  if (!overflow) return text({reinterpret_cast<const char*>(&small), sizeof small});
  const auto bits = nb::cast<std::size_t>(object.attr("bit_length")());
  const nb::bytes bytes =
      nb::cast<nb::bytes>(object.attr("to_bytes")(bits / 8 + 1, "little", nb::arg("signed") = true));
  text({bytes.c_str(), bytes.size()});
}

void StructureWriter::string(nb::handle object) {
  bytes_.push_back(node::string);
  Py_ssize_t size = 0;
  if (const char* utf8 = PyUnicode_AsUTF8AndSize(object.ptr(), &size))
    return text({utf8, static_cast<std::size_t>(size)});
  PyErr_Clear();
  const nb::object bytes = owned(PyUnicode_AsEncodedString(object.ptr(), "utf-8", "surrogatepass"));
  text({PyBytes_AS_STRING(bytes.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.ptr()))});
}

void StructureWriter::parts(char node, const Objects& items, int depth) {
  bytes_.push_back(node);
  number(items.size());
  for (const auto& item : items) part(item, depth + 1);
}

/// In an order of their bytes: equal sets are equal structures, whatever the process.
void StructureWriter::unordered(char node, nb::handle set, int depth) {
  const nb::object items = owned(PySequence_List(set.ptr()));
  std::vector<std::string> written;
  for (const nb::handle item : nb::borrow<nb::list>(items)) {
    StructureWriter alone;
    alone.part(item, depth + 1);
    written.push_back(std::move(alone.bytes_));
  }
  std::sort(written.begin(), written.end());
  bytes_.push_back(node);
  number(written.size());
  for (const auto& item : written) bytes_ += item;
}

void StructureWriter::pickle(nb::handle object) {
  const nb::object type = nb::borrow(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())));
  const auto name = nb::cast<std::string>(helper("label_of")(type));
  const nb::bytes pickled = nb::cast<nb::bytes>(helper("dumps")(object));
  bytes_.push_back(node::pickle);
  text(name);
  text({pickled.c_str(), pickled.size()});
}

void StructureWriter::instance(const nb::tuple& sorted, Objects& values, int depth) {
  const bool has_fields = nb::cast<std::string>(sorted[0]) == "class";
  const nb::tuple recipe =
      has_fields ? nb::make_tuple(sorted[1], nb::none(), nb::tuple()) : nb::cast<nb::tuple>(sorted[1]);
  const nb::object type = recipe[0];
  const nb::tuple name = nb::cast<nb::tuple>(helper("name_of")(type));
  const bool is_tuple = PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(type.ptr()), &PyTuple_Type) != 0;
  bytes_.push_back(node::instance);
  if (has_fields) bytes_.push_back(is_tuple ? node::named_tuple : node::dataclass);
  else bytes_.push_back(!recipe[1].is_none() ? node::dict : is_tuple ? node::tuple : node::list);
  text(nb::cast<std::string>(name[0]));
  text(nb::cast<std::string>(name[1]));
  const nb::tuple children = nb::cast<nb::tuple>(sorted[2]);
  if (has_fields) {
    number(children.size());
    for (const nb::handle field : children) text(nb::cast<std::string>(field));
  } else if (!recipe[1].is_none()) {
    const nb::tuple extra = nb::cast<nb::tuple>(recipe[2]);
    factory(extra.empty() ? nb::none() : nb::object(extra[0]));
    Objects found;
    for (const nb::handle key : nb::cast<nb::tuple>(recipe[1])) found.push_back(nb::borrow(key));
    keys(found, values, depth);
  } else {
    number(children.size());
  }
}

/// Of a defaultdict: mostly a class, which has a name.
void StructureWriter::factory(nb::handle factory) {
  if (!PyType_Check(factory.ptr())) return part(factory, 0);
  const nb::tuple name = nb::cast<nb::tuple>(helper("name_of")(factory));
  bytes_.push_back(node::named);
  text(nb::cast<std::string>(name[0]));
  text(nb::cast<std::string>(name[1]));
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

/// Reads a guise. Its writer may be hostile.
class Guise {
 public:
  explicit Guise(std::string_view text) : rest_(text) {
    if (text.empty()) return;
    kinds_ = take(number());
    while (!rest_.empty()) {
      const std::size_t dict = number();
      if (!orders_.empty() && dict <= orders_.back().dict) throw DamagedStructure();
      const std::size_t keys = number();
      orders_.push_back({dict, take(keys * sizeof(std::uint32_t))});
    }
  }

  [[nodiscard]] LeafKind kind(std::size_t leaf) const {
    if (kinds_.empty()) return LeafKind::numpy;
    if (leaf >= kinds_.size()) throw DamagedStructure();
    switch (const auto kind = static_cast<LeafKind>(kinds_[leaf])) {
      case LeafKind::numpy:
      case LeafKind::matrix:
      case LeafKind::torch:
      case LeafKind::jax: return kind;
    }
    throw DamagedStructure();
  }

  /// The place in the structure of the dict's first key, its second and so on. Nothing: they have the structure's
  /// order.
  [[nodiscard]] std::optional<std::vector<std::size_t>> places(std::size_t dict, std::size_t keys) const {
    const auto found = first_from(dict);
    if (found == orders_.end() || found->dict != dict) return std::nullopt;
    if (found->places.size() != keys * sizeof(std::uint32_t)) throw DamagedStructure();
    std::vector<std::size_t> places;
    std::vector<bool> taken(keys);
    for (std::size_t i = 0; i < keys; ++i) {
      std::uint32_t place = 0;
      std::memcpy(&place, found->places.data() + i * sizeof place, sizeof place);
      if (place >= keys || taken[place]) throw DamagedStructure();
      taken[place] = true;
      places.push_back(place);
    }
    return places;
  }

  /// That of a part of the value.
  [[nodiscard]] std::string slice(std::size_t leaf, std::size_t leaves, std::size_t dict, std::size_t dicts) const {
    if (!kinds_.empty() && leaf + leaves > kinds_.size()) throw DamagedStructure();
    std::string orders;
    for (auto order = first_from(dict); order != orders_.end() && order->dict < dict + dicts; ++order) {
      append_number(orders, order->dict - dict);
      append_number(orders, order->places.size() / sizeof(std::uint32_t));
      orders += order->places;
    }
    return guise_of(kinds_.empty() ? kinds_ : kinds_.substr(leaf, leaves), orders);
  }

 private:
  struct Order {
    std::size_t dict = 0;
    std::string_view places;
  };

  std::string_view take(std::size_t bytes) {
    if (rest_.size() < bytes) throw DamagedStructure();
    const auto taken = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return taken;
  }
  std::size_t number() {
    std::uint32_t value = 0;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  [[nodiscard]] std::vector<Order>::const_iterator first_from(std::size_t dict) const {
    return std::lower_bound(orders_.begin(), orders_.end(), dict,
                            [](const Order& order, std::size_t wanted) { return order.dict < wanted; });
  }

  std::string_view rest_;
  std::string_view kinds_;
  std::vector<Order> orders_;
};

/// Builds the value.
class Builder {
 public:
  using Value = nb::object;
  using Values = std::vector<Value>;

  Builder(const Guise& guise, std::size_t leaves, ipc::Makers makers, const MakeLeaf& make_leaf)
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
    const char form[] = {name.form, '\0'};
    return helper(data_only_ ? "rebuild_as_data" : "rebuild")(form, text_from(name.module), text_from(name.name),
                                                              factory.empty() ? nb::none() : factory.front(),
                                                              list_of(std::move(keys)), list_of(std::move(values)));
  }

 private:
  /// As they were in the dict that was given.
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
    raise(Error(Code::denied,
                "the value holds a pickled " + nb::cast<std::string>(nb::repr(text_from(shortened(type)))) +
                    " of another user's making, and no process unpickles what another user made",
                "in an open group pass plain data: arrays, numbers, str, bytes, None, and dict, list, tuple, set, "
                "named tuple and dataclass of these"));
  }

  /// Numbers can be chosen to have equal hashes, which makes a dict of them slow; texts can't.
  void count_hashed(const Values& keys) {
    constexpr std::size_t numbers_max = 4096;
    if (!data_only_) return;
    for (const auto& key : keys) hashed_ += !PyUnicode_CheckExact(key.ptr()) && !PyBytes_CheckExact(key.ptr());
    if (hashed_ <= numbers_max) return;
    raise(Error(Code::denied,
                "the value of another user's making has more than " + std::to_string(numbers_max) +
                    " keys that are neither str nor bytes",
                "in an open group use keys of str, or an array of the keys"));
  }

  const Guise& guise_;
  std::size_t leaves_;
  bool data_only_;
  const MakeLeaf& make_leaf_;
  std::size_t used_ = 0;
  std::size_t hashed_ = 0;
};

/// Counts the leaves.
struct Counter {
  struct Value {};
  using Values = std::vector<Value>;
  std::size_t leaves = 0;

  Value leaf() {
    ++leaves;
    return {};
  }
  static Value atom(const Atom&) { return {}; }
  static Value sequence(char, Values&&) { return {}; }
  static Value dict(std::size_t, Values&&, Values&&) { return {}; }
  static Value instance(const ClassName&, std::size_t, Values&&, std::vector<std::string_view>&&, Values&&, Values&&) {
    return {};
  }
};

[[noreturn]] void damaged() { raise(Error(Code::invalid, DamagedStructure().what())); }

}  // namespace

nb::object put_together(std::string_view structure, std::string_view guise, std::size_t leaves, ipc::Makers makers,
                        const MakeLeaf& make_leaf) {
  try {
    const Guise read(guise);
    if (structure.empty()) return leaves == 0 ? nb::none() : make_leaf(0, read.kind(0));
    Builder builder(read, leaves, makers, make_leaf);
    return StructureReader(structure, builder).whole();
  } catch (const DamagedStructure&) {
    damaged();
  }
}

std::vector<Child> children_of(std::string_view structure, std::string_view guise) {
  Counter counter;
  StructureReader reader(structure, counter);
  std::vector<Child> children;
  try {
    const Guise read(guise);
    const auto count = reader.enter_sequence();
    if (!count)
      raise(Error(Code::invalid, "the ref holds no list or tuple",
                  "give one array, or a list with an element for each rank"));
    for (std::uint32_t i = 0; i < *count; ++i) {
      const std::size_t begin = reader.position();
      const std::size_t leaves_before = counter.leaves;
      const std::size_t dicts_before = reader.dicts();
      reader.value(1);
      const auto part = structure.substr(begin, reader.position() - begin);
      const std::size_t leaves = counter.leaves - leaves_before;
      Description description{part == std::string_view(&node::leaf, 1) ? std::string() : std::string(part),
                              read.slice(leaves_before, leaves, dicts_before, reader.dicts() - dicts_before)};
      children.push_back({std::move(description), leaves});
    }
  } catch (const DamagedStructure&) {
    damaged();
  }
  return children;
}

nb::object readable(std::string_view structure) {
  constexpr std::size_t shown_bytes_max = 2000;
  const auto outline = ipc::outline_of(structure, std::numeric_limits<std::size_t>::max());
  const std::string text = outline ? text_of(*outline, shown_bytes_max) : "?";
  return owned(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

}  // namespace muster::python
