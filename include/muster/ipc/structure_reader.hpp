// Reads a structure once, from its root, and tells a visitor what is there, children before their container. The writer
// may be hostile, so depth and nodes are limited, and no memory is allocated because a count claims it.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <muster/ipc/structure.hpp>

namespace muster::ipc {

/// A constant without parts.
struct Atom {
  char node = node::none;
  std::string_view bytes;
  std::string_view type;  ///< of a pickle: the name of what was pickled
};

/// Visitor: `using Value`, and Value leaf(), atom(const Atom&), sequence(char node, std::vector<Value>&&),
/// dict(std::size_t which, std::vector<Value>&& keys, std::vector<Value>&& values), and
/// instance(const ClassName&, std::size_t which, Value factory, std::vector<std::string_view> fields, keys, values):
/// the fields of a class with fields, the keys of a subclass of dict. `which` counts dicts and those subclasses by
/// where they begin. Throws DamagedStructure.
template <class Visitor>
class StructureReader {
 public:
  using Value = typename Visitor::Value;
  using Values = std::vector<Value>;

  StructureReader(std::string_view structure, Visitor& visitor,
                  std::size_t nodes_max = std::numeric_limits<std::size_t>::max())
      : text_(structure), visitor_(visitor), nodes_left_(nodes_max) {}

  /// Reads the whole structure.
  Value whole() {
    Value value = this->value(0);
    if (at_ != text_.size()) throw DamagedStructure();
    return value;
  }

  Value value(int depth) {
    check(depth);
    switch (const char letter = next()) {
      case node::leaf: return visitor_.leaf();
      case node::dict: {
        const std::size_t which = dicts_++;
        const auto entries = count();
        Values keys = constants(entries, depth);
        return visitor_.dict(which, std::move(keys), values(entries, depth));
      }
      case node::list:
      case node::tuple: return visitor_.sequence(letter, values(count(), depth));
      case node::set: return visitor_.sequence(letter, constants(count(), depth));
      case node::instance: return instance(depth);
      default: return constant(letter, depth);
    }
  }

  /// Steps into a list or tuple, and returns how many children follow. Returns nothing and does not step if another
  /// node is next.
  std::optional<std::uint32_t> enter_sequence() {
    if (text_.empty() || (text_[at_] != node::list && text_[at_] != node::tuple)) return std::nullopt;
    ++at_;
    return count();
  }
  [[nodiscard]] std::size_t position() const { return at_; }
  /// Dicts that have begun so far.
  [[nodiscard]] std::size_t dicts() const { return dicts_; }

 private:
  void check(int depth) {
    if (depth > structure_depth_max || nodes_left_ == 0) throw DamagedStructure();
    --nodes_left_;
  }
  void need(std::size_t bytes) const {
    if (text_.size() - at_ < bytes) throw DamagedStructure();
  }
  char next() {
    need(1);
    return text_[at_++];
  }
  std::uint32_t number() {
    std::uint32_t value = 0;
    const auto from = take(sizeof value);
    std::memcpy(&value, from.data(), sizeof value);
    return value;
  }
  /// A count of nodes that follow. Each takes at least one byte, so the count is checked against the rest.
  std::uint32_t count() {
    const auto nodes = number();
    need(nodes);
    return nodes;
  }
  std::string_view take(std::size_t bytes) {
    need(bytes);
    at_ += bytes;
    return text_.substr(at_ - bytes, bytes);
  }
  std::string_view text() { return take(number()); }

  Values values(std::uint32_t count, int depth) {
    Values found;
    for (; count > 0; --count) found.push_back(value(depth + 1));
    return found;
  }
  Values constants(std::uint32_t count, int depth) {
    Values found;
    for (; count > 0; --count) found.push_back(constant(next(), depth + 1));
    return found;
  }

  /// Reads a constant, which may be a key.
  Value constant(char letter, int depth) {
    check(depth);
    switch (letter) {
      case node::none:
      case node::true_:
      case node::false_: return visitor_.atom({letter, {}, {}});
      case node::real: return visitor_.atom({letter, take(sizeof(double)), {}});
      case node::complex: return visitor_.atom({letter, take(2 * sizeof(double)), {}});
      case node::integer:
      case node::string:
      case node::bytes: return visitor_.atom({letter, text(), {}});
      case node::tuple:
      case node::frozen_set: return visitor_.sequence(letter, constants(count(), depth));
      case node::pickle: {
        const auto type = text();
        return visitor_.atom({letter, text(), type});
      }
      default: throw DamagedStructure();
    }
  }

  Value instance(int depth) {
    ClassName name;
    name.form = next();
    name.module = text();
    name.name = text();
    Values factory;
    Values keys;
    std::vector<std::string_view> fields;
    const std::size_t which = name.form == node::dict ? dicts_++ : 0;
    if (name.form == node::dict) factory.push_back(this->factory(depth));
    const auto size = count();
    switch (name.form) {
      case node::named_tuple:
      case node::dataclass:
        for (std::uint32_t i = 0; i < size; ++i) fields.push_back(text());
        break;
      case node::dict: keys = constants(size, depth); break;
      case node::list:
      case node::tuple: break;
      default: throw DamagedStructure();
    }
    Values children = values(size, depth);
    return visitor_.instance(name, which, std::move(factory), std::move(fields), std::move(keys), std::move(children));
  }

  Value factory(int depth) {
    const char letter = next();
    if (letter != node::named) return constant(letter, depth);
    const auto module = text();
    return visitor_.atom({letter, text(), module});
  }

  std::string_view text_;
  Visitor& visitor_;
  std::size_t nodes_left_;
  std::size_t at_ = 0;
  std::size_t dicts_ = 0;
};

}  // namespace muster::ipc
