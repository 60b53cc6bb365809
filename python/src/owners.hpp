// Finds arrays that may be taken over without a copy, because nobody else can write to them any more. Nothing here runs
// Python code, so the answer holds until the caller lets Python run again.
#pragma once

#include <vector>

#include "tree.hpp"

namespace muster::python {

/// For each leaf: whether every reference on it, on its bases and on the containers around it comes from the tree
/// itself or from us. `root_references` is how many references on the root the caller itself has.
[[nodiscard]] std::vector<bool> sole_owners(const Tree& tree, nb::handle root, Py_ssize_t root_references);

}  // namespace muster::python
