// Constants into a structure, and Python values out of one. How its bytes look is known to `muster/ipc/` only.
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

/// A value without arrays. Invalid if it can't be pickled where it has to be, or is too deep or too large.
void write_constant(ipc::StructureWriter& writer, nb::handle object);
/// A key of a dict: the same, of any size.
void write_key(ipc::StructureWriter& writer, nb::handle object);
/// The factory of a defaultdict: mostly a class, which has a name.
void write_factory(ipc::StructureWriter& writer, nb::handle factory);

/// Module and qualified name of a class; Invalid if nobody would find it by them.
struct NameOfClass {
  std::string module;
  std::string name;
};
[[nodiscard]] NameOfClass name_of_class(nb::handle type);

/// Makes the leaf of this index as what it came in as.
using MakeLeaf = std::function<nb::object(std::size_t index, LeafKind kind)>;
/// The value that is described over this many leaves. Of several users' making: data only; Denied, naming what was
/// found, if there is a pickle in it. Invalid if the description is damaged.
[[nodiscard]] nb::object put_together(std::string_view structure, std::string_view guise, std::size_t leaves,
                                      ipc::Makers makers, const MakeLeaf& make_leaf);

/// Raises: an object's structure doesn't follow the format.
[[noreturn]] void raise_damaged();
/// For people: {"w": *, "b": [*, *]}.
[[nodiscard]] nb::object readable(std::string_view structure);

}  // namespace muster::python
