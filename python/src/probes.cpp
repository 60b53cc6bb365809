// Functions for tests, and for the decorator's own check of reference counts, to look at values and structures.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <limits>
#include <tuple>

#include "bindings.hpp"
#include "owners.hpp"
#include "structure.hpp"
#include "tree.hpp"

namespace muster::python {

namespace {

std::string_view view_of(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

nb::tuple taken_apart(nb::handle value) {
  const auto [description, found] = take_apart(value);
  nb::list leaves;
  for (const auto& leaf : found) leaves.append(leaf.array);
  return nb::make_tuple(nb::bytes(description.structure.data(), description.structure.size()),
                        nb::bytes(description.guise.data(), description.guise.size()), leaves);
}

nb::object from_parts(const nb::bytes& structure, const nb::bytes& guise, const std::vector<nb::object>& leaves,
                      bool data_only) {
  const auto makers = data_only ? ipc::Makers::several_users : ipc::Makers::one_user;
  const auto make_leaf = [&](std::size_t index, LeafKind) { return leaves[index]; };
  return put_together(view_of(structure), view_of(guise), leaves.size(), makers, std::ref(make_leaf));
}

ipc::Outline outline_or_raise(const nb::bytes& structure) {
  auto outline = ipc::outline_of(view_of(structure), std::numeric_limits<std::size_t>::max());
  if (!outline) raise_damaged();
  return std::move(*outline);
}

std::vector<std::string> leaf_paths(const nb::bytes& structure) {
  const auto outline = outline_or_raise(structure);
  std::vector<std::string> paths;
  while (auto path = path_of_leaf(outline, paths.size())) paths.push_back(std::move(*path));
  return paths;
}

using Difference = std::tuple<std::string, std::string, std::string>;

/// Finds where two values first differ, and what each has there.
std::optional<Difference> structure_difference(const nb::bytes& first, const nb::bytes& second) {
  const auto found = difference_between(outline_or_raise(first), outline_or_raise(second));
  return found ? std::optional<Difference>({found->path, found->first, found->second}) : std::nullopt;
}

/// Which leaves of the result of `function()` have the tree as their sole owner, on the path of plain calls.
std::vector<bool> probe_call(nb::handle function) {
  nb::object result = nb::steal(PyObject_CallNoArgs(function.ptr()));
  if (!result.is_valid()) throw nb::python_error();
  const Tree tree = take_apart(result);
  return sole_owners(tree, result, 1);
}

/// The same for a result that Python passes as an argument, as after an await.
std::vector<bool> probe_argument(nb::handle result) {
  const Tree tree = take_apart(result);
  return sole_owners(tree, result, 1);
}

}  // namespace

void bind_probes(nb::module_& module) {
  module.def("take_apart", &taken_apart, nb::arg("value").none());
  module.def("put_together", &from_parts);
  module.def("leaf_paths", &leaf_paths);
  module.def("structure_difference", &structure_difference);
  module.def("probe_call", &probe_call);
  module.def("probe_argument", &probe_argument);
}

}  // namespace muster::python
