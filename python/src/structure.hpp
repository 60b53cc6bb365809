// Writes constants into a structure, and makes Python values from one. Only `muster/ipc/` knows the format of its
// bytes.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include <muster/ipc/guise.hpp>
#include <muster/ipc/manifest.hpp>
#include <muster/ipc/structure.hpp>
#include <muster/ipc/structure_writer.hpp>

#include "module.hpp"

namespace muster::python {

using ipc::LeafKind;

/// Writes a value without arrays. Invalid if it can't be pickled but has to be, or if it is too deep or too large.
void write_constant(ipc::StructureWriter& writer, nb::handle object);
/// Writes a key of a dict: the same, but of any size.
void write_key(ipc::StructureWriter& writer, nb::handle object);
/// Writes the factory of a defaultdict: mostly a class, which has a name.
void write_factory(ipc::StructureWriter& writer, nb::handle factory);

/// Module and qualified name of a class. Invalid if the class can't be found by them.
struct NameOfClass {
  std::string module;
  std::string name;
};
[[nodiscard]] NameOfClass name_of_class(nb::handle type);

/// Makes the leaf with this index, of the kind that the user gave.
using MakeLeaf = std::function<nb::object(std::size_t index, LeafKind kind)>;
/// Makes the value that the structure describes, with this many leaves. If several users made it, only plain data is
/// allowed: Denied if it has a pickle, and the error names that. Invalid if the description is damaged.
[[nodiscard]] nb::object put_together(std::string_view structure, std::string_view guise, std::size_t leaves,
                                      ipc::Makers makers, const MakeLeaf& make_leaf);

/// Raises the error for a structure that doesn't follow the format.
[[noreturn]] void raise_damaged();
/// The structure as text: {"w": *, "b": [*, *]}.
[[nodiscard]] nb::object readable(std::string_view structure);

}  // namespace muster::python
