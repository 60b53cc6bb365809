#include <muster/ipc/structure.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/structure_reader.hpp>
#include <muster/ipc/text.hpp>

namespace muster::ipc {

namespace {

/// Longer names and constants are cut in messages.
constexpr std::size_t shown_bytes_max = 60;

struct Outliner {
  using Value = Outline;
  using Values = std::vector<Value>;

  static Value leaf() { return {}; }
  static Value atom(const Atom& atom) {
    Value made;
    made.letter = atom.node;
    made.bytes = atom.bytes;
    made.type = atom.type;
    return made;
  }
  static Value sequence(char letter, Values&& items) {
    Value made;
    made.letter = letter;
    made.children = std::move(items);
    return made;
  }
  static Value dict(std::size_t, Values&& keys, Values&& values) {
    Value made = sequence(node::dict, std::move(values));
    made.keys = std::move(keys);
    return made;
  }
  static Value instance(const ClassName& name, std::size_t, Values&&, std::vector<std::string_view>&& fields,
                        Values&& keys, Values&& values) {
    Value made = dict(0, std::move(keys), std::move(values));
    made.letter = node::instance;
    made.form = name.form;
    made.type = name.name;
    for (const auto field : fields) made.keys.push_back(atom({node::string, field, {}}));
    return made;
  }
};

/// Makes text fit for messages, as it may come from another, hostile user.
std::string shortened(std::string_view text) { return ipc::shortened(text, shown_bytes_max); }

std::string number_text(std::string_view bytes, bool real) {
  if (bytes.size() != sizeof(std::int64_t)) return fmt::format("an int of {} bytes", bytes.size());
  std::int64_t integer = 0;
  std::memcpy(&integer, bytes.data(), sizeof integer);
  if (!real) return std::to_string(integer);
  double number = 0;
  std::memcpy(&number, bytes.data(), sizeof number);
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", number);
  if (std::strtod(text, nullptr) != number) std::snprintf(text, sizeof text, "%.17g", number);
  return text;
}

struct Brackets {
  const char* open;
  const char* close;
};

/// The brackets of a node that contains others; nothing for other nodes.
std::optional<Brackets> brackets_of(const Outline& outline) {
  const char letter = outline.letter == node::instance ? outline.form : outline.letter;
  switch (letter) {
    case node::list: return Brackets{"[", "]"};
    case node::tuple: return Brackets{"(", ")"};
    case node::set:
    case node::frozen_set: return Brackets{"{", "}"};
    case node::dict: return outline.letter == node::instance ? Brackets{"({", "})"} : Brackets{"{", "}"};
    case node::named_tuple:
    case node::dataclass:
      if (outline.letter == node::instance) return Brackets{"(", ")"};
      break;
    default: break;
  }
  return std::nullopt;
}

std::string atom_text(const Outline& atom) {
  switch (atom.letter) {
    case node::leaf: return "*";
    case node::none: return "None";
    case node::true_: return "True";
    case node::false_: return "False";
    case node::integer: return number_text(atom.bytes, false);
    case node::real: return number_text(atom.bytes, true);
    case node::complex: {
      const std::size_t half = sizeof(double);
      return fmt::format("({}, {}j)", number_text(atom.bytes.substr(0, half), true),
                         number_text(atom.bytes.substr(half), true));
    }
    case node::string: return fmt::format("'{}'", shortened(atom.bytes));
    case node::bytes: return fmt::format("{} bytes", atom.bytes.size());
    case node::pickle: return "a pickled " + shortened(atom.type);
    default: return "?";
  }
}

void append_text(const Outline& outline, std::size_t bytes_max, std::string& text) {
  const auto brackets = brackets_of(outline);
  if (!brackets) {
    text += atom_text(outline);
    return;
  }
  if (outline.letter == node::instance) text += shortened(outline.type);
  text += brackets->open;
  const bool has_fields = outline.form == node::named_tuple || outline.form == node::dataclass;
  for (std::size_t i = 0; i < outline.children.size(); ++i) {
    if (i > 0) text += ", ";
    if (text.size() >= bytes_max) {
      text += "...";
      break;
    }
    if (i < outline.keys.size()) {
      if (has_fields) text += shortened(outline.keys[i].bytes) + "=";
      else append_text(outline.keys[i], bytes_max, text), text += ": ";
    }
    append_text(outline.children[i], bytes_max, text);
  }
  text += brackets->close;
}

bool same(const Outline& a, const Outline& b) {
  return a.letter == b.letter && a.form == b.form && a.bytes == b.bytes && a.type == b.type &&
         std::equal(a.keys.begin(), a.keys.end(), b.keys.begin(), b.keys.end(), same) &&
         std::equal(a.children.begin(), a.children.end(), b.children.begin(), b.children.end(), same);
}

bool is_word(std::string_view key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](char letter) {
    return letter == '_' || letter == '.' || letter == '-' || (letter >= '0' && letter <= '9') ||
           (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') || (letter & 0x80) != 0;
  });
}

/// The path to what is at `below` in this child.
std::string step(const Outline& outline, std::size_t child, const std::string& below) {
  const std::string tail = below.empty() || below.front() == '[' ? below : "." + below;
  if (child >= outline.keys.size()) return fmt::format("[{}]{}", child, tail);
  const Outline& key = outline.keys[child];
  if (key.letter == node::string && is_word(key.bytes)) return shortened(key.bytes) + tail;
  std::string text;
  append_text(key, shown_bytes_max, text);
  return fmt::format("[{}]{}", text, tail);
}

std::string a(const char* what, std::size_t count) { return fmt::format("a {} of {}", what, count); }

/// Names a node without its children.
std::string brief(const Outline& outline) {
  switch (outline.letter) {
    case node::leaf: return "an array";
    case node::dict: return a("dict", outline.children.size());
    case node::list: return a("list", outline.children.size());
    case node::tuple: return a("tuple", outline.children.size());
    case node::instance: return "a " + shortened(outline.type);
    default: break;
  }
  std::string text;
  append_text(outline, shown_bytes_max, text);
  return text;
}

using Difference = StructureDifference;

/// A text or bytes constant, shown from a little before `at` on.
std::string from(const Outline& constant, std::size_t at) {
  constexpr std::size_t before = 12;
  std::size_t start = at < shown_bytes_max - before ? 0 : at - before;
  while (start > 0 && (static_cast<unsigned char>(constant.bytes[start]) & 0xc0) == 0x80) --start;
  const std::string cut = (start > 0 ? "..." : "") + shortened(constant.bytes.substr(start));
  return constant.letter == node::string ? fmt::format("'{}'", cut)
                                         : fmt::format("b'{}' of {} bytes", cut, constant.bytes.size());
}

/// What each of the two has, written so that the reader sees the difference.
Difference difference_of(const Outline& x, const Outline& y) {
  if (x.letter == y.letter && (x.letter == node::string || x.letter == node::bytes)) {
    const auto at =
        std::mismatch(x.bytes.begin(), x.bytes.end(), y.bytes.begin(), y.bytes.end()).first - x.bytes.begin();
    return {{}, from(x, static_cast<std::size_t>(at)), from(y, static_cast<std::size_t>(at))};
  }
  Difference found{{}, brief(x), brief(y)};
  if (found.first == found.second) found.second += " of another value";  // a pickle, or too large to show
  return found;
}

std::optional<Difference> difference_at(const Outline& x, const Outline& y);

std::optional<Difference> difference_among(const Outline& x, const Outline& y, std::size_t children) {
  for (std::size_t i = 0; i < children; ++i) {
    auto found = difference_at(x.children[i], y.children[i]);
    if (!found) continue;
    found->path = step(x, i, found->path);
    return found;
  }
  return std::nullopt;
}

/// For two nodes with keys: a key that one of them lacks, or else a difference below an equal key.
std::optional<Difference> difference_by_key(const Outline& x, const Outline& y) {
  const auto has = [](const Outline& outline, const Outline& key) {
    return std::any_of(outline.keys.begin(), outline.keys.end(), [&](const Outline& one) { return same(one, key); });
  };
  // The keys are in the order of their bytes, so equal ones are at equal places up to the first that differs.
  std::size_t at = 0;
  while (at < std::min(x.keys.size(), y.keys.size()) && same(x.keys[at], y.keys[at])) ++at;
  if (at < x.keys.size() && !has(y, x.keys[at])) return Difference{step(x, at, {}), brief(x.children[at]), "missing"};
  if (at < y.keys.size() && !has(x, y.keys[at])) return Difference{step(y, at, {}), "missing", brief(y.children[at])};
  return difference_among(x, y, at);
}

std::optional<Difference> difference_at(const Outline& x, const Outline& y) {
  const bool is_set = x.letter == node::set || x.letter == node::frozen_set;
  if (x.letter != y.letter || x.form != y.form || x.type != y.type || x.bytes != y.bytes || (is_set && !same(x, y)))
    return difference_of(x, y);
  if (!x.keys.empty() || !y.keys.empty()) return difference_by_key(x, y);
  if (auto found = difference_among(x, y, std::min(x.children.size(), y.children.size()))) return found;
  if (x.children.size() != y.children.size()) return Difference{{}, brief(x), brief(y)};
  return std::nullopt;
}

/// Counts `leaf` down to the wanted one, and returns its path.
std::optional<std::string> path_at(const Outline& outline, std::size_t& leaf) {
  if (outline.letter == node::leaf) {
    if (leaf == 0) return std::string();
    --leaf;
    return std::nullopt;
  }
  for (std::size_t i = 0; i < outline.children.size(); ++i)
    if (auto found = path_at(outline.children[i], leaf)) return step(outline, i, *found);
  return std::nullopt;
}

}  // namespace

std::string_view form_name(char form) {
  switch (form) {
    case node::named_tuple: return "named tuple";
    case node::dataclass: return "dataclass";
    case node::dict: return "dict";
    case node::list: return "list";
    case node::tuple: return "tuple";
    default: throw DamagedStructure();
  }
}

std::optional<Outline> outline_of(std::string_view structure, std::size_t nodes_max) {
  if (structure.empty()) return Outline();
  Outliner outliner;
  try {
    return StructureReader(structure, outliner, nodes_max).whole();
  } catch (const DamagedStructure&) {
    return std::nullopt;
  }
}

std::string text_of(const Outline& outline, std::size_t bytes_max) {
  std::string text;
  append_text(outline, bytes_max, text);
  return text;
}

std::optional<std::string> path_of_leaf(const Outline& outline, std::size_t leaf) { return path_at(outline, leaf); }

std::optional<StructureDifference> difference_between(const Outline& first, const Outline& second) {
  return difference_at(first, second);
}

}  // namespace muster::ipc
