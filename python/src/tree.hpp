// Nestings of dicts, lists, tuples, dataclasses and constants with arrays as leaves: how they are taken apart, and who
// owns what was found.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "module.hpp"
#include "structure.hpp"

namespace muster::python {

/// A container on the way to a leaf.
struct Container {
  PyObject* object = nullptr;
  std::shared_ptr<const Container> outer;
};

struct FoundLeaf {
  nb::object array;  ///< a NumPy array over the leaf's values
  LeafKind kind = LeafKind::numpy;
  DType dtype = DType::float32;
  bool as_given = true;  ///< `array` is the object that the user returned, not one made from it
  std::shared_ptr<const Container> container;
};

/// A tree taken apart. `references` counts, for each object met, the references that the tree itself holds on it.
struct Tree {
  std::string structure;  ///< empty: a plain NumPy array
  std::vector<FoundLeaf> leaves;
  std::unordered_map<PyObject*, Py_ssize_t> references;
  std::vector<nb::object> temporaries;  ///< references of our own; counted in `references`, too
};

/// Invalid for what can't be stored (object arrays, GPU tensors without GPU support, cycles).
[[nodiscard]] Tree take_apart(nb::handle root);

/// For each leaf: whether nobody but the tree owns it, its bases and the containers around it.
/// `root_references`: how many references on the root the caller knows of.
[[nodiscard]] std::vector<bool> sole_owners(const Tree& tree, nb::handle root, Py_ssize_t root_references);

}  // namespace muster::python
