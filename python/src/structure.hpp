// An object's `structure`: how its leaves nest, as bytes. A data format of bounded depth: names, numbers and texts.
// Pickles are in it only for what is nothing of that, and what others made is read without them.
//
//   value    = leaf | 'D' dict | 'L' list | 'U' tuple, of values | 'K' instance | constant
//   leaf     = 'A' array | 'S' scalar | 'T' torch | 'J' jax; the object's arrays, in this order
//   dict     = n, n keys (constants), n values;  list, tuple = n, n values
//   instance = form, module, qualified name, then by form: 'n' named tuple, 'd' dataclass: n, n field names, n values;
//              'D' subclass of dict: its factory ('Z', 'G' or 'P'), n, n keys, n values; 'L', 'U' of list, tuple: as
//              those
//   constant = 'Z' None | 't' True | 'f' False | 'i' int | 'r' float | 'c' complex | 's' str | 'y' bytes
//            | 'U' tuple, 'F' frozenset, of constants | 'E' set (of constants; not in keys)
//            | 'P' pickle: type's name, pickle
// Counts and lengths are u32. Names, 'i' (two's complement), 's' (UTF-8) and 'y' are a length and as many bytes.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <muster/ipc/manifest.hpp>

#include "module.hpp"

namespace muster::python {

/// Levels of a value; deeper ones are refused by whoever writes or reads them.
inline constexpr int depth_max = 200;

/// How a leaf came in, and so how it goes out: a character of the structure.
enum class LeafKind : char { numpy = 'A', scalar = 'S', torch = 'T', jax = 'J' };

/// Writes a structure in the order of a walk: a container's head, then its children.
class StructureWriter {
 public:
  void leaf(LeafKind kind) { bytes_.push_back(static_cast<char>(kind)); }
  void dict(const std::vector<nb::object>& keys, int depth);
  void list(std::size_t items);
  void tuple(std::size_t items);
  /// `sorted`: what muster._trees.sort_out said of an instance of a class with fields, or of a container's subclass.
  void instance(const nb::tuple& sorted, int depth);
  /// Invalid if it can't be pickled where it has to be, or is too large.
  void constant(nb::handle object, int depth);

  /// Empty: a plain NumPy array.
  [[nodiscard]] std::string take() &&;

 private:
  void number(std::size_t number);
  void text(std::string_view bytes);
  void keys(const std::vector<nb::object>& keys, int depth);
  void part(nb::handle object, int depth);
  void integer(nb::handle object);
  void string(nb::handle object);
  void parts(char node, const std::vector<nb::object>& items, int depth);
  void unordered(char node, nb::handle set, int depth);
  void factory(nb::handle factory);
  void pickle(nb::handle object);
  std::string bytes_;
};

/// Makes the leaf of this index as what it came in as.
using MakeLeaf = std::function<nb::object(std::size_t index, LeafKind kind)>;
/// The value that `structure` describes over this many leaves. Of several users' making: data only; Denied, naming
/// what was found, if there is a pickle in it. Invalid if the structure is damaged.
[[nodiscard]] nb::object put_together(std::string_view structure, std::size_t leaves, ipc::Makers makers,
                                      const MakeLeaf& make_leaf);

/// The children of a list or tuple at the root: the structure of each, and how many leaves it has.
struct Child {
  std::string structure;
  std::size_t leaves = 0;
};
[[nodiscard]] std::vector<Child> children_of(std::string_view structure);
/// For people: {"w": *, "b": [*, *]}.
[[nodiscard]] nb::object readable(std::string_view structure);

}  // namespace muster::python
