// Who owns an array: what may be taken over without a copy, because nobody can write to it any more.
// Nothing here runs Python code, so what it finds holds until the caller lets Python run again.
#pragma once

#include <vector>

#include "tree.hpp"

namespace muster::python {

/// For each leaf: whether every reference on it, on its bases and on the containers around it comes from the tree
/// itself or is one of ours. `root_references`: how many references on the root are the caller's own.
[[nodiscard]] std::vector<bool> sole_owners(const Tree& tree, nb::handle root, Py_ssize_t root_references);

}  // namespace muster::python
