#include <catch2/catch.hpp>

#include <cstdint>
#include <initializer_list>
#include <string>

#include <muster/ipc/structure.hpp>

#include "random.hpp"

namespace muster::ipc {

namespace {

constexpr std::size_t many = 1000;

std::string number(std::size_t value) {
  const auto written = static_cast<std::uint32_t>(value);
  return {reinterpret_cast<const char*>(&written), sizeof written};
}
std::string name(const std::string& text) { return number(text.size()) + text; }
std::string text(const std::string& text) { return "s" + name(text); }
std::string integer(std::int64_t value) { return "i" + name({reinterpret_cast<const char*>(&value), sizeof value}); }
std::string several(char letter, std::initializer_list<std::string> items) {
  std::string made = letter + number(items.size());
  for (const auto& item : items) made += item;
  return made;
}
std::string dict(std::initializer_list<std::pair<std::string, std::string>> entries) {
  std::string made = "D" + number(entries.size());
  for (const auto& entry : entries) made += entry.first;
  for (const auto& entry : entries) made += entry.second;
  return made;
}
std::string dataclass(const std::string& type, std::initializer_list<std::pair<std::string, std::string>> fields) {
  std::string made = "Kd" + name("module") + name(type) + number(fields.size());
  for (const auto& field : fields) made += name(field.first);
  for (const auto& field : fields) made += field.second;
  return made;
}

std::string shown(const std::string& structure) {
  const auto outline = outline_of(structure, many);
  REQUIRE(outline);
  return text_of(*outline, many);
}
std::string difference(const std::string& first, const std::string& second) {
  const auto a = outline_of(first, many);
  const auto b = outline_of(second, many);
  REQUIRE((a && b));
  const auto found = difference_between(*a, *b);
  return found ? found->path + ": " + found->first + " | " + found->second : "none";
}
std::string path(const std::string& structure, std::size_t leaf) {
  const auto outline = outline_of(structure, many);
  REQUIRE(outline);
  return path_of_leaf(*outline, leaf).value_or("no such leaf");
}

}  // namespace

TEST_CASE("a structure has a readable text") {
  CHECK(shown("") == "*");
  CHECK(shown("Z") == "None");
  CHECK(shown(dict({{text("b"), several('L', {"A", "t"})}, {integer(-3), text("x")}})) == "{'b': [*, True], -3: 'x'}");
  CHECK(shown(dataclass("Layer", {{"w", "A"}, {"kind", text("dense")}})) == "Layer(w=*, kind='dense')");
  CHECK(shown(several('U', {"A", "y" + name("abc"), "P" + name("enum.Color") + name("pickled")})) ==
        "(*, 3 bytes, a pickled enum.Color)");
  const std::string long_name(100, 'x');
  CHECK(shown(text(long_name)) == "'" + std::string(60, 'x') + "...'");
}

TEST_CASE("names and constants of other users can't disguise a message") {
  const auto hostile =
      dict({{text("\x1b[2J\n"), "A"}, {text("\xff"), dataclass("a\rb", {{"\xed\xa0\x80", text("\u202e")}})}});
  CHECK(shown(hostile) == "{'\\x1b[2J\\x0a': *, '\\xff': a\\x0db(\\xed\\xa0\\x80='\\xe2\\x80\\xae')}");
  CHECK(path(hostile, 0) == "['\\x1b[2J\\x0a']");
  CHECK(difference(hostile, "") == ": a dict of 2 | an array");
}

TEST_CASE("a text is cut where it grows too long") {
  std::string list = "L" + number(500) + std::string(500, 'A');
  CHECK(text_of(*outline_of(list, many), 10) == "[*, *, *, ...]");
}

TEST_CASE("leaves have paths") {
  const auto layers = dict({{text("bias"), "A"},
                            {text("layers"), several('L', {dict({{text("w"), "A"}}), dict({{text("the key"), "A"}})})},
                            {integer(7), dataclass("Layer", {{"w", several('U', {"A", "A"})}})}});
  CHECK(path(layers, 0) == "bias");
  CHECK(path(layers, 1) == "layers[0].w");
  CHECK(path(layers, 2) == "layers[1]['the key']");
  CHECK(path(layers, 4) == "[7].w[1]");
  CHECK(path(layers, 5) == "no such leaf");
  CHECK(path("", 0).empty());
  CHECK(path(several('L', {"Z", several('L', {"A"})}), 0) == "[1][0]");
}

TEST_CASE("the first difference of two values is named") {
  const auto both = dict({{text("b"), "A"}, {text("w"), "A"}});
  CHECK(difference(both, both) == "none");
  CHECK(difference(both, dict({{text("w"), "A"}})) == "b: an array | missing");
  CHECK(difference(dict({{text("w"), "A"}}), both) == "b: missing | an array");
  CHECK(difference(both, dict({{text("b"), "A"}, {text("w"), several('L', {"A"})}})) == "w: an array | a list of 1");
  CHECK(difference("", both) == ": an array | a dict of 2");
  CHECK(difference(several('L', {"A", "A"}), several('L', {"A"})) == ": a list of 2 | a list of 1");
  CHECK(difference(several('L', {text("adam"), "A"}), several('L', {text("sgd"), "A"})) == "[0]: 'adam' | 'sgd'");
  CHECK(difference(several('E', {integer(1)}), several('E', {integer(2)})) == ": {1} | {2}");
  CHECK(difference(dataclass("Layer", {{"w", "A"}}), dataclass("Block", {{"w", "A"}})) == ": a Layer | a Block");
  CHECK(difference(dataclass("Layer", {{"w", "A"}}), dataclass("Layer", {{"w", "Z"}})) == "w: an array | None");
}

TEST_CASE("constants that differ late are shown where they do") {
  const std::string long_text(100, 'x');
  CHECK(difference(text(long_text + "a"), text(long_text + "b")) == ": '...xxxxxxxxxxxxa' | '...xxxxxxxxxxxxb'");
  CHECK(difference(text(long_text), text(long_text + "b")) == ": '...xxxxxxxxxxxx' | '...xxxxxxxxxxxxb'");
  CHECK(difference("y" + name("abc"), "y" + name("abd")) == ": b'abc' of 3 bytes | b'abd' of 3 bytes");
  const auto real = [](double number) {
    return "r" + std::string(reinterpret_cast<const char*>(&number), sizeof number);
  };
  CHECK(difference(real(0.1), real(0.1 + 1e-16)) == ": 0.1 | 0.1000000000000001");
}

TEST_CASE("a message says that pickles differ") {
  const auto pickled = [](const std::string& bytes) { return "P" + name("enum.Color") + name(bytes); };
  CHECK(difference(dict({{text("c"), pickled("red")}}), dict({{text("c"), pickled("blue")}})) ==
        "c: a pickled enum.Color | a pickled enum.Color of another value");
}

TEST_CASE("other notations, damage and too many nodes have no outline") {
  CHECK_FALSE(outline_of("three of them", many));
  CHECK_FALSE(outline_of("AA", many));
  CHECK_FALSE(outline_of("L" + number(0xffffffff) + "A", many));
  CHECK_FALSE(outline_of("L" + number(11) + std::string(11, 'A'), 10));
  std::string deep;
  for (int i = 0; i <= structure_depth_max; ++i) deep += "L" + number(1);
  CHECK_FALSE(outline_of(deep + "A", many));
}

TEST_CASE("any bytes have an outline or none") {
  const auto seed = GENERATE(range(0u, 30u));
  CAPTURE(seed);
  test::Random random(seed);
  const std::string letters = "ADLUKZtfircsyFEPGnd";
  for (int i = 0; i < 1'000; ++i) {
    std::string made;
    for (auto pieces = random.between(1, 20); pieces > 0; --pieces)
      made += random.chance(0.6) ? std::string(1, letters[random.between(0, letters.size() - 1)])
                                 : number(random.between(0, random.chance(0.1) ? 0xffffffff : 4));
    const auto outline = outline_of(made, many);
    if (!outline) continue;
    CHECK_FALSE(text_of(*outline, 50).empty());
    if (made == "A") CHECK(path_of_leaf(*outline, 0) == "");
    else CHECK(path_of_leaf(*outline, random.between(0, 5)) != "");
    CHECK_FALSE(difference_between(*outline, *outline));
    CHECK((difference_between(*outline, Outline()).has_value() || outline->letter == node::leaf));
  }
}

}  // namespace muster::ipc
