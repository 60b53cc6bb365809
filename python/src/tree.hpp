// Nestings of dicts, lists, tuples, dataclasses and constants with arrays as leaves: how they are taken apart.
#pragma once

#include <vector>

#include <muster/ipc/description.hpp>

#include "module.hpp"
#include "structure.hpp"

namespace muster::python {

struct FoundLeaf {
  nb::object array;  ///< a NumPy array over the leaf's values
  LeafKind kind = LeafKind::numpy;
  DType dtype = DType::float32;
  bool as_given = true;    ///< `array` is the object that the user returned, not one made from it
  bool is_scalar = false;  ///< a number was returned
};

struct Tree {
  ipc::Description description;
  std::vector<FoundLeaf> leaves;
};

/// Holds one reference on each leaf when it is done. Invalid for what can't be stored (object arrays, GPU tensors
/// without GPU support, cycles).
[[nodiscard]] Tree take_apart(nb::handle root);

}  // namespace muster::python
