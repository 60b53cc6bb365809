#include <muster/ipc/structure_writer.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <muster/ipc/structure_reader.hpp>

#include "random.hpp"

namespace muster::ipc {

namespace {

/// A value of any language: what a reader is told, and what the writer needs.
struct Item {
  char letter = node::leaf;
  std::string bytes;
  std::string type;  ///< of a pickle; for an instance, its name
  char form = '\0';
  std::vector<std::string> fields;
  std::vector<Item> factory;
  std::vector<Item> keys;
  std::vector<Item> children;

  bool operator==(const Item&) const = default;
};

Item leaf() { return {}; }
Item atom(char letter, std::string bytes = {}, std::string type = {}) {
  Item made;
  made.letter = letter;
  made.bytes = std::move(bytes);
  made.type = std::move(type);
  return made;
}
Item holder(char letter, std::vector<Item> children) {
  Item made;
  made.letter = letter;
  made.children = std::move(children);
  return made;
}
Item dict(std::vector<Item> keys, std::vector<Item> values) {
  Item made = holder(node::dict, std::move(values));
  made.keys = std::move(keys);
  return made;
}
Item text(const std::string& text) { return atom(node::string, text); }

double real_from(const std::string& bytes, std::size_t at = 0) {
  double number = 0;
  std::memcpy(&number, bytes.data() + at * sizeof number, sizeof number);
  return number;
}

void write(StructureWriter& writer, const Item& item);

void write_instance(StructureWriter& writer, const Item& item) {
  const ClassName name{item.form, "module", item.type};
  const auto child = [&](std::size_t i) { write(writer, item.children[i]); };
  if (item.form == node::named_tuple || item.form == node::dataclass) return writer.instance(name, item.fields, child);
  if (item.form != node::dict) return writer.instance(name, item.children.size(), child);
  writer.instance(
      name, [&] { write(writer, item.factory.front()); }, item.keys.size(),
      [&](std::size_t i) { write(writer, item.keys[i]); }, child);
}

void write(StructureWriter& writer, const Item& item) {
  const auto child = [&](std::size_t i) { write(writer, item.children[i]); };
  switch (item.letter) {
    case node::leaf: return writer.leaf(LeafKind::numpy);
    case node::none: return writer.none();
    case node::true_: return writer.boolean(true);
    case node::false_: return writer.boolean(false);
    case node::integer: return writer.large_integer(item.bytes);
    case node::real: return writer.real(real_from(item.bytes));
    case node::complex: return writer.complex(real_from(item.bytes), real_from(item.bytes, 1));
    case node::string: return writer.string(item.bytes);
    case node::bytes: return writer.bytes(item.bytes);
    case node::pickle: return writer.pickle(item.type, item.bytes);
    case node::named: return writer.class_by_name(item.type, item.bytes);
    case node::list:
    case node::tuple: return writer.sequence(item.letter, item.children.size(), child);
    case node::set:
    case node::frozen_set: return writer.unordered(item.letter, item.children.size(), child);
    case node::dict:
      return writer.dict(
          item.keys.size(), [&](std::size_t i) { write(writer, item.keys[i]); }, child);
    default: return write_instance(writer, item);
  }
}

Description written(const Item& item) {
  StructureWriter writer;
  write(writer, item);
  return std::move(writer).take();
}

/// Makes items from what a reader finds, with keys in the order that the guise says.
struct Rebuilder {
  using Value = Item;
  using Values = std::vector<Item>;
  const Guise& guise;

  static Value leaf() { return {}; }
  static Value atom(const Atom& atom) {
    return muster::ipc::atom(atom.node, std::string(atom.bytes), std::string(atom.type));
  }
  static Value sequence(char letter, Values&& items) { return holder(letter, std::move(items)); }
  [[nodiscard]] Value dict(std::size_t which, Values&& keys, Values&& values) const {
    Item made = muster::ipc::dict({}, {});
    const auto places = guise.places(which, keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const std::size_t place = places ? (*places)[i] : i;
      made.keys.push_back(keys[place]);
      made.children.push_back(values[place]);
    }
    return made;
  }
  [[nodiscard]] Value instance(const ClassName& name, std::size_t which, Values&& factory,
                               std::vector<std::string_view>&& fields, Values&& keys, Values&& values) const {
    Item made = name.form == node::dict ? dict(which, std::move(keys), std::move(values))
                                        : holder(node::instance, std::move(values));
    made.letter = node::instance;
    made.form = name.form;
    made.type = name.name;
    made.factory = std::move(factory);
    made.fields.assign(fields.begin(), fields.end());
    return made;
  }
};

Item read(const Description& description) {
  if (description.structure.empty()) return leaf();
  const Guise guise(description.guise);
  Rebuilder rebuilder{guise};
  return StructureReader(description.structure, rebuilder).whole();
}

Item any_constant(test::Random& random, int levels) {
  const std::string atoms = "ZtfircsyP";
  if (levels > 0 && random.chance(0.3)) {
    std::vector<Item> items;
    for (auto left = random.between(0, 3); left > 0; --left) items.push_back(any_constant(random, levels - 1));
    return holder(node::tuple, std::move(items));
  }
  const char letter = atoms[random.between(0, atoms.size() - 1)];
  switch (letter) {
    case node::real: return atom(letter, std::string(8, static_cast<char>(random.between(1, 60))));
    case node::complex: return atom(letter, std::string(16, static_cast<char>(random.between(1, 60))));
    case node::integer: return atom(letter, std::string(random.between(8, 12), '\1'));
    case node::string:
    case node::bytes: return atom(letter, random.text(6));
    case node::pickle: return atom(letter, random.text(6), "kind");
    default: return atom(letter);
  }
}

/// Keys differ from each other, as in a dict.
std::vector<Item> any_keys(test::Random& random, std::size_t count) {
  std::vector<Item> keys;
  for (std::size_t i = 0; i < count; ++i)
    keys.push_back(holder(node::tuple, {any_constant(random, 1), text(std::to_string(i))}));
  return keys;
}

Item any_value(test::Random& random, int levels) {
  if (levels == 0 || random.chance(0.3)) return random.chance(0.5) ? leaf() : any_constant(random, 2);
  std::vector<Item> children;
  for (auto left = random.between(0, 4); left > 0; --left) children.push_back(any_value(random, levels - 1));
  const std::size_t count = children.size();
  switch (random.between(0, 3)) {
    case 0: return holder(random.chance(0.5) ? node::list : node::tuple, std::move(children));
    case 1: return dict(any_keys(random, count), std::move(children));
    default: break;
  }
  const std::string forms = "ndDLU";
  Item made = holder(node::instance, std::move(children));
  made.type = random.text(5);
  made.form = forms[random.between(0, forms.size() - 1)];
  if (made.form == node::dict) {
    made.keys = any_keys(random, count);
    made.factory = {random.chance(0.5) ? atom(node::none) : atom(node::named, "list", "builtins")};
  }
  if (made.form == node::named_tuple || made.form == node::dataclass)
    for (std::size_t i = 0; i < count; ++i) made.fields.push_back(random.text(4));
  return made;
}

}  // namespace

TEST_CASE("a written value is read back as it was") {
  const auto seed = GENERATE(range(0u, 20u));
  CAPTURE(seed);
  test::Random random(seed);
  for (int i = 0; i < 500; ++i) {
    const Item value = any_value(random, 4);
    const auto description = written(value);
    CHECK(read(description) == value);
    CHECK((description.structure.empty() == (value == leaf())));
  }
}

TEST_CASE("equal sets are written equally, and so are equal dicts except for their guise") {
  const Item one = text("one"), two = atom(node::integer, std::string(8, '\2')), inner = holder(node::tuple, {one});
  CHECK(written(holder(node::set, {one, two, inner})).structure ==
        written(holder(node::set, {inner, one, two})).structure);
  const auto first = written(dict({one, two}, {leaf(), atom(node::none)}));
  const auto second = written(dict({two, one}, {atom(node::none), leaf()}));
  CHECK(first.structure == second.structure);
  CHECK(first.guise != second.guise);
  CHECK((first.guise.empty() || second.guise.empty()));
}

TEST_CASE("a list says what its elements are") {
  const Item second = dict({text("b"), text("a")}, {leaf(), leaf()});
  StructureWriter writer;
  writer.sequence(node::list, 4, [&](std::size_t i) {
    if (i == 1) write(writer, second);
    else if (i == 2) writer.none();
    else writer.leaf(i == 0 ? LeafKind::torch : LeafKind::numpy);
  });
  const auto whole = std::move(writer).take();
  const auto elements = elements_of(whole.structure, whole.guise);
  REQUIRE(elements);
  REQUIRE(elements->size() == 4);
  CHECK((*elements)[0].leaves == 1);
  CHECK(Guise((*elements)[0].description.guise).kind(0) == LeafKind::torch);
  CHECK((*elements)[1].leaves == 2);
  CHECK(read((*elements)[1].description) == second);
  CHECK((*elements)[2].leaves == 0);
  CHECK(read((*elements)[2].description) == atom(node::none));
  CHECK((*elements)[3].description.structure.empty());
  CHECK((*elements)[3].description.guise.empty());
  CHECK_FALSE(elements_of(written(second).structure, {}));
  CHECK_FALSE(elements_of({}, {}));
}

TEST_CASE("the writer refuses nesting that readers would refuse") {
  const auto nested = [](int levels) {
    StructureWriter writer;
    const std::function<void(int)> go = [&](int left) {
      if (left == 0) return writer.none();
      writer.sequence(node::list, 1, [&](std::size_t) { go(left - 1); });
    };
    go(levels);
    return std::move(writer).take().structure;
  };
  CHECK(outline_of(nested(structure_depth_max), 1000));
  CHECK_THROWS_AS(nested(structure_depth_max + 1), StructureTooDeep);
  CHECK_THROWS_AS(nested(100 * structure_depth_max), StructureTooDeep);
}

TEST_CASE("a constant is bounded, whatever it is made of") {
  StructureWriter writer;
  const std::string half(constant_bytes_max / 2, 'x');
  writer.constant([&] { writer.string(half); });
  writer.constant([&] { writer.bytes(half); });  // each part is within the limit by itself
  CHECK_THROWS_AS(writer.constant([&] { writer.sequence(node::tuple, 2, [&](std::size_t) { writer.string(half); }); }),
                  ConstantTooLarge);
}

TEST_CASE("any guise is read or refused") {
  const auto seed = GENERATE(range(0u, 20u));
  CAPTURE(seed);
  test::Random random(seed);
  for (int i = 0; i < 500; ++i) {
    std::string text;
    for (auto numbers = random.between(0, 8); numbers > 0; --numbers) {
      const auto number = static_cast<std::uint32_t>(random.chance(0.1) ? random.bits() : random.between(0, 3));
      text.append(reinterpret_cast<const char*>(&number), sizeof number);
      if (random.chance(0.2)) text += random.text(4);
    }
    try {
      const Guise guise(text);
      static_cast<void>(guise.kind(random.between(0, 4)));
      static_cast<void>(guise.places(random.between(0, 3), random.between(0, 3)));
      static_cast<void>(guise.slice(0, random.between(0, 3), random.between(0, 3), random.between(0, 3)));
      static_cast<void>(elements_of("L" + std::string("\1\0\0\0A", 5), text));
    } catch (const DamagedStructure&) {
    }
  }
}

TEST_CASE("kinds of leaves have names") {
  for (const auto kind : {LeafKind::numpy, LeafKind::matrix, LeafKind::torch, LeafKind::jax, LeafKind::cupy})
    CHECK(leaf_kind_named(name(kind)) == kind);
  CHECK_FALSE(leaf_kind_named("tensor"));
}

}  // namespace muster::ipc
