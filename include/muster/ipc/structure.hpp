// An object's `structure` says how its leaves nest, as bytes. It is a data format of limited depth, with names, numbers
// and texts. Ranks of one reduction must give equal structures. It contains pickles only for values that it has no
// other form for, and pickles that other users made are not loaded.
//
//   value    = leaf | 'D' dict | 'L' list | 'U' tuple, of values | 'K' instance | constant
//   leaf     = 'A': the object's arrays, in this order
//   dict     = n, n keys (constants), n values;  list, tuple = n, n values
//   instance = form, module, qualified name, then by form: 'n' named tuple, 'd' dataclass: n, n field names, n values;
//              'D' subclass of dict: its factory ('Z', 'G' or 'P'), n, n keys, n values; 'L', 'U' of list, tuple: as
//              those
//   constant = 'Z' None | 't' True | 'f' False | 'i' int | 'r' float | 'c' complex | 's' str | 'y' bytes
//            | 'U' tuple, 'F' frozenset, of constants | 'E' set (of constants; not in keys)
//            | 'P' pickle: type's name, pickle
// Counts and lengths are u32. Names, 'i' (two's complement), 's' (UTF-8) and 'y' are a length and as many bytes. Keys
// and the items of sets are in the order of their bytes, in whatever order they were made. No bytes: one array.
//
// An object also has a `guise`: what else its maker's value had, and the ranks need not agree on. An empty guise means
// NumPy arrays, and keys in the order of their bytes.
//
//   guise = u32 kinds (none, or one for each leaf), as many letters: 'A' NumPy array, 'M' np.matrix, 'T' torch, 'J'
//   JAX;
//           then for each dict that has another order: u32 which, counted by where they begin; u32 n, n times u32: the
//           place in the structure of its first key, second key and so on
//
// `structure_writer.hpp` writes both, `structure_reader.hpp` and `guise.hpp` read them, and no other code knows the
// formats. This file has what messages say about a structure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace muster::ipc {

/// The most levels of a value; a deeper one is neither written nor read.
inline constexpr int structure_depth_max = 200;
/// The most bytes of a constant; larger values belong in arrays.
inline constexpr std::size_t constant_bytes_max = 1 << 16;

/// The letters of the format.
namespace node {
inline constexpr char leaf = 'A';
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

/// The class of an instance.
struct ClassName {
  char form = node::dataclass;  ///< which kind of class it is: a letter of the format
  std::string_view module;
  std::string_view name;
};
/// "named tuple", "dataclass", or "dict", "list" or "tuple" for their subclasses.
[[nodiscard]] std::string_view form_name(char form);

/// Thrown while a structure or a guise is read: its bytes don't follow the format.
class DamagedStructure final : public std::runtime_error {
 public:
  DamagedStructure() : std::runtime_error("an object's structure is damaged") {}
};

/// A structure as a tree, from which messages are made.
struct Outline {
  char letter = node::leaf;
  char form = '\0';           ///< of an instance
  std::string_view bytes;     ///< of a constant, inside the structure; equal constants have equal bytes
  std::string_view type;      ///< of an instance: its class; of a pickle: what was pickled
  std::vector<Outline> keys;  ///< of a node with keys or fields
  std::vector<Outline> children;
};

/// Nothing if the structure is damaged, is in another notation, or has more than `nodes_max` nodes. The outline refers
/// to `structure`.
[[nodiscard]] std::optional<Outline> outline_of(std::string_view structure, std::size_t nodes_max);

/// The outline as text, at most about `bytes_max` bytes of it: {'w': *, 'b': [*, *]}.
[[nodiscard]] std::string text_of(const Outline& outline, std::size_t bytes_max);

/// Where a leaf is in the value: layer2.w, [3].b. Empty if the leaf is the value. Nothing if there is no such leaf.
[[nodiscard]] std::optional<std::string> path_of_leaf(const Outline& outline, std::size_t leaf);

/// The first place where two values differ, and what each has there: "an array", "missing", "a list of 3".
struct StructureDifference {
  std::string path;
  std::string first;
  std::string second;
};
[[nodiscard]] std::optional<StructureDifference> difference_between(const Outline& first, const Outline& second);

}  // namespace muster::ipc
