// Writes a structure and its guise while the caller walks over a value. For a container the writer is told how many
// children there are, and calls `write(i)` for each of them, which writes child i and nothing else. So the writer knows
// how deep it is, and sorts keys and the items of sets by itself. `structure.hpp` says what the bytes mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <muster/ipc/description.hpp>
#include <muster/ipc/guise.hpp>
#include <muster/ipc/structure.hpp>

namespace muster::ipc {

/// Thrown by a writer, as no reader would read a structure that is this deep.
class StructureTooDeep final : public std::runtime_error {
 public:
  StructureTooDeep() : std::runtime_error("a structure is too deep") {}
};

/// Thrown by a writer if a constant takes more than `constant_bytes_max`.
class ConstantTooLarge final : public std::runtime_error {
 public:
  explicit ConstantTooLarge(std::size_t its_bytes) : std::runtime_error("a constant is too large"), bytes(its_bytes) {}
  std::size_t bytes;
};

class StructureWriter {
 public:
  /// Throws StructureTooDeep if the level of the next node is one too many.
  void check_depth() const {
    if (depth_ > structure_depth_max) throw StructureTooDeep();
  }

  void leaf(LeafKind kind);

  void none() { head(node::none); }
  void boolean(bool value) { head(value ? node::true_ : node::false_); }
  void integer(std::int64_t value);
  /// An integer of any size: two's complement, little endian, at least 8 bytes.
  void large_integer(std::string_view bytes);
  void real(double value);
  void complex(double real, double imaginary);
  void string(std::string_view utf8);
  void bytes(std::string_view bytes);
  void pickle(std::string_view type, std::string_view pickled);
  /// A class that is the factory of a subclass of dict.
  void class_by_name(std::string_view module, std::string_view name);

  /// `write()` writes one constant. Throws ConstantTooLarge.
  template <class Write>
  void constant(const Write& write) {
    const std::size_t before = bytes_.size();
    write();
    if (const std::size_t taken = bytes_.size() - before; taken > constant_bytes_max) throw ConstantTooLarge(taken);
  }

  /// A list or a tuple.
  template <class Write>
  void sequence(char letter, std::size_t items, const Write& write) {
    head(letter);
    children(items, write);
  }
  /// A set or a frozenset: `write(i)` writes a constant.
  template <class Write>
  void unordered(char letter, std::size_t items, const Write& write) {
    head(letter);
    number(items);
    ++depth_;
    static_cast<void>(sort(write_pieces(items, write)));
    --depth_;
  }
  /// `write_key(i)` writes a constant.
  template <class WriteKey, class WriteValue>
  void dict(std::size_t entries, const WriteKey& write_key, const WriteValue& write_value) {
    head(node::dict);
    this->entries(dicts_++, entries, write_key, write_value);
  }

  /// An instance of a class with fields.
  template <class Write>
  void instance(const ClassName& name, std::span<const std::string> fields, const Write& write) {
    head(name);
    number(fields.size());
    for (const auto& field : fields) text(field);
    values(fields.size(), write);
  }
  /// An instance of a subclass of list or tuple.
  template <class Write>
  void instance(const ClassName& name, std::size_t items, const Write& write) {
    head(name);
    children(items, write);
  }
  /// An instance of a subclass of dict. `write_factory()` writes its factory: none, a class or a pickle.
  template <class WriteFactory, class WriteKey, class WriteValue>
  void instance(const ClassName& name, const WriteFactory& write_factory, std::size_t entries,
                const WriteKey& write_key, const WriteValue& write_value) {
    head(name);
    const std::size_t which = dicts_++;
    write_factory();
    this->entries(which, entries, write_key, write_value);
  }

  [[nodiscard]] Description take() &&;

 private:
  /// Constants in a row.
  struct Pieces {
    std::size_t begin = 0;
    std::vector<std::size_t> ends;
  };

  void head(char letter) {
    check_depth();
    bytes_.push_back(letter);
  }
  void head(const ClassName& name);
  void number(std::size_t number);
  void text(std::string_view bytes);

  template <class Write>
  void children(std::size_t count, const Write& write) {
    number(count);
    values(count, write);
  }
  template <class Write>
  void values(std::size_t count, const Write& write) {
    ++depth_;
    for (std::size_t i = 0; i < count; ++i) write(i);
    --depth_;
  }
  template <class WriteKey, class WriteValue>
  void entries(std::size_t which, std::size_t count, const WriteKey& write_key, const WriteValue& write_value) {
    number(count);
    ++depth_;
    const auto order = sort(write_pieces(count, write_key));
    note_order(which, order);
    for (std::size_t place = 0; place < count; ++place) write_value(order.empty() ? place : order[place]);
    --depth_;
  }
  template <class Write>
  Pieces write_pieces(std::size_t count, const Write& write) {
    Pieces pieces{bytes_.size(), {}};
    pieces.ends.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      write(i);
      pieces.ends.push_back(bytes_.size());
    }
    return pieces;
  }
  /// Sorts the pieces by their bytes. Returns which piece is at each place now; empty if they were sorted already.
  std::vector<std::size_t> sort(const Pieces& pieces);
  void note_order(std::size_t dict, std::span<const std::size_t> order);

  std::string bytes_;
  GuiseWriter guise_;
  int depth_ = 0;
  std::size_t dicts_ = 0;
};

}  // namespace muster::ipc
