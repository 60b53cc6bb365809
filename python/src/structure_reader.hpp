// Reads a structure once, from its root, and tells a visitor what is there, children before their container. Whoever
// wrote it may be hostile: depth is bounded, and nothing is allocated on the word of a count.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "structure.hpp"

namespace muster::python {

/// The letters of the format.
namespace node {
inline constexpr char dict = 'D';
inline constexpr char list = 'L';
inline constexpr char tuple = 'U';
inline constexpr char instance = 'K';
inline constexpr char none = 'Z';
inline constexpr char true_ = 't';
inline constexpr char false_ = 'f';
inline constexpr char integer = 'i';
inline constexpr char real = 'r';
inline constexpr char complex = 'c';
inline constexpr char string = 's';
inline constexpr char bytes = 'y';
inline constexpr char frozen_set = 'F';
inline constexpr char set = 'E';
inline constexpr char pickle = 'P';
inline constexpr char named_tuple = 'n';
inline constexpr char dataclass = 'd';
inline constexpr char named = 'G';
}  // namespace node

[[noreturn]] inline void damaged() { raise(Error(Code::invalid, "an object's structure is damaged")); }

/// A constant without parts.
struct Atom {
  char node = node::none;
  std::string_view bytes;
  std::string_view type;  ///< of a pickle: the name of what was pickled
};

struct ClassName {
  char form = node::dataclass;
  std::string_view module;
  std::string_view name;
};

/// Visitor: `using Value`, and Value leaf(LeafKind), atom(const Atom&), sequence(char node, std::vector<Value>&&),
/// dict(std::vector<Value>&& keys, std::vector<Value>&& values), and
/// instance(const ClassName&, Value factory, std::vector<std::string_view> fields, keys, values): the fields of a
/// class with fields, the keys of a subclass of dict.
template <class Visitor>
class StructureReader {
 public:
  using Value = typename Visitor::Value;
  using Values = std::vector<Value>;

  StructureReader(std::string_view structure, Visitor& visitor) : text_(structure), visitor_(visitor) {}

  /// All of it.
  Value whole() {
    Value value = this->value(0);
    if (at_ != text_.size()) damaged();
    return value;
  }

  Value value(int depth) {
    check(depth);
    switch (const char letter = next()) {
      case static_cast<char>(LeafKind::numpy):
      case static_cast<char>(LeafKind::scalar):
      case static_cast<char>(LeafKind::torch):
      case static_cast<char>(LeafKind::jax): return visitor_.leaf(static_cast<LeafKind>(letter));
      case node::dict: {
        const auto entries = count();
        Values keys = constants(entries, depth);
        return visitor_.dict(std::move(keys), values(entries, depth));
      }
      case node::list:
      case node::tuple: return visitor_.sequence(letter, values(count(), depth));
      case node::set: return visitor_.sequence(letter, constants(count(), depth));
      case node::instance: return instance(depth);
      default: return constant(letter, depth);
    }
  }

  /// Steps into a list or tuple: how many children follow. Nothing, and no step, where there is another node.
  std::optional<std::uint32_t> enter_sequence() {
    if (text_.empty() || (text_[at_] != node::list && text_[at_] != node::tuple)) return std::nullopt;
    ++at_;
    return count();
  }
  [[nodiscard]] std::size_t position() const { return at_; }

 private:
  static void check(int depth) {
    if (depth > depth_max) damaged();
  }
  void need(std::size_t bytes) const {
    if (text_.size() - at_ < bytes) damaged();
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
  /// Of nodes that follow: each takes a byte at least.
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

  /// What may be a key.
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
      default: damaged();
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
      default: damaged();
    }
    Values children = values(size, depth);
    return visitor_.instance(name, std::move(factory), std::move(fields), std::move(keys), std::move(children));
  }

  Value factory(int depth) {
    const char letter = next();
    if (letter != node::named) return constant(letter, depth);
    const auto module = text();
    return visitor_.atom({letter, text(), module});
  }

  std::string_view text_;
  Visitor& visitor_;
  std::size_t at_ = 0;
};

}  // namespace muster::python
