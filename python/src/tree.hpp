// Takes nestings of dicts, lists, tuples, dataclasses and constants apart into a structure and arrays as leaves.
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
  bool as_given = true;    ///< `array` is the user's object itself, not one made from it
  bool is_scalar = false;  ///< the user returned a number
};

struct Tree {
  ipc::Description description;
  std::vector<FoundLeaf> leaves;
};

/// The result holds one reference on each leaf. Invalid for values that can't be stored (object arrays, GPU tensors
/// without GPU support, cycles).
[[nodiscard]] Tree take_apart(nb::handle root);

}  // namespace muster::python
