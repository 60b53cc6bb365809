// Writes values as structures (muster/ipc/structure.hpp says how) and puts values together from them.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <muster/ipc/manifest.hpp>
#include <muster/ipc/structure.hpp>

#include "module.hpp"

namespace muster::python {

using ipc::structure_depth_max;

/// Larger constants belong into arrays.
inline constexpr std::size_t constant_bytes_max = 1 << 16;

/// As what a leaf came in, and so as what it goes out: a letter of the guise.
enum class LeafKind : char { numpy = 'A', matrix = 'M', torch = 'T', jax = 'J' };

/// What an object says of its value beside the arrays.
struct Description {
  std::string structure;
  std::string guise;
};

/// Writes a structure in the order of a walk: a container's head, then its children.
class StructureWriter {
 public:
  using Objects = std::vector<nb::object>;

  void leaf(LeafKind kind);
  /// Puts the values into the order in which they must follow: that of their keys as written.
  void dict(const Objects& keys, Objects& values, int depth);
  void list(std::size_t items);
  void tuple(std::size_t items);
  /// `sorted`: what muster._trees.sort_out said of an instance of a class with fields, or of a container's subclass.
  /// `values` are its children, and put into order like a dict's.
  void instance(const nb::tuple& sorted, Objects& values, int depth);
  /// Invalid if it can't be pickled where it has to be, or is too large.
  void constant(nb::handle object, int depth);

  [[nodiscard]] Description take() &&;

 private:
  void number(std::size_t number);
  void text(std::string_view bytes);
  void keys(const Objects& keys, Objects& values, int depth);
  void part(nb::handle object, int depth);
  void integer(nb::handle object);
  void string(nb::handle object);
  void parts(char node, const Objects& items, int depth);
  void unordered(char node, nb::handle set, int depth);
  void factory(nb::handle factory);
  void pickle(nb::handle object);
  std::string bytes_;
  std::string kinds_;
  std::string orders_;
  std::size_t dicts_ = 0;
};

/// Makes the leaf of this index as what it came in as.
using MakeLeaf = std::function<nb::object(std::size_t index, LeafKind kind)>;
/// The value that is described over this many leaves. Of several users' making: data only; Denied, naming what was
/// found, if there is a pickle in it. Invalid if the description is damaged.
[[nodiscard]] nb::object put_together(std::string_view structure, std::string_view guise, std::size_t leaves,
                                      ipc::Makers makers, const MakeLeaf& make_leaf);

/// The children of a list or tuple at the root: what describes each, and how many leaves it has.
struct Child {
  Description description;
  std::size_t leaves = 0;
};
[[nodiscard]] std::vector<Child> children_of(std::string_view structure, std::string_view guise);
/// For people: {"w": *, "b": [*, *]}.
[[nodiscard]] nb::object readable(std::string_view structure);

}  // namespace muster::python
